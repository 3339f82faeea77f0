"""Every place where answers may be kept, behind one port."""

from collections.abc import Iterator

import pytest

from app.caching.domain.caching import AnswerCache
from app.caching.local_answers import LocalAnswers
from app.caching.store.database_answers import DatabaseAnswers
from app.caching.store.redis_answers import RedisAnswers
from app.platform.database import Database
from app.platform.migrate import upgrade
from tests.caching.clocks import MovableClock


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated database, on each engine."""
    upgrade(database_url)
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def redis_answers(redis_url: str, clock: MovableClock) -> Iterator[RedisAnswers]:
    answers = RedisAnswers(redis_url, clock, entries=5, longest_seconds=1000)
    yield answers
    answers.close()


@pytest.fixture(params=["redis", "sqlite", "postgresql", "local"])
def answers(request: pytest.FixtureRequest, clock: MovableClock) -> Iterator[AnswerCache]:
    """The suite runs once over each."""
    if request.param in ("redis", "local"):
        inner: AnswerCache = request.getfixturevalue("redis_answers")
        yield inner if request.param == "redis" else LocalAnswers(inner, clock, seconds=300, most_bytes=10**6)
        return
    url = request.getfixturevalue(f"{request.param}_url")
    upgrade(url)
    database = Database(url)
    kept = DatabaseAnswers(database, clock)
    yield kept
    kept.close()
    database.close()
