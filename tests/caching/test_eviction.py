"""Which answers make room, what stays after its lifetime, and what an administrator removes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from app.caching.domain.caching import AnswerCache, CachedAnswer
from app.caching.local_answers import LocalAnswers
from app.caching.store.database_answers import DatabaseAnswers, bound
from app.caching.store.redis_answers import RedisAnswers
from app.platform.database import Database
from app.platform.migrate import upgrade
from tests.caching.clocks import MovableClock

ANSWER = CachedAnswer('{"text":"kept"}')
MOST = 3


class Bounded:
    """A cache of three answers with what bounds it, wherever it keeps them."""

    def __init__(self, answers: AnswerCache, database: Database | None, clock: MovableClock) -> None:
        self.answers = answers
        self.database = database
        self.clock = clock

    def use(self, key: str, times: int) -> None:
        for _ in range(times):
            if not self.answers.look([key]):
                self.answers.keep(key, ANSWER, 100)
            self.clock.ahead += 11  # uses are recorded every 10 s
        self.answers.look(["nothing"])
        self.bound()

    def bound(self) -> None:
        database = self.database
        while database is not None and database.write(
            lambda conn: bound(conn, MOST, self.clock.now(), 10, "lfu", 50.0)
        ):
            pass


@pytest.fixture(params=["redis", "sqlite", "postgresql"])
def lfu(request: pytest.FixtureRequest, clock: MovableClock) -> Iterator[Bounded]:
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")
        redis = RedisAnswers(url, clock, entries=MOST, longest_seconds=1000, eviction="lfu", stale_seconds=50)
        yield Bounded(redis, None, clock)
        redis.close()
        return
    url = request.getfixturevalue(f"{request.param}_url")
    upgrade(url)
    database = Database(url)
    answers = DatabaseAnswers(database, clock, eviction="lfu", stale_seconds=50)
    yield Bounded(answers, database, clock)
    answers.close()
    database.close()


def test_the_least_frequently_used_make_room(lfu: Bounded) -> None:
    lfu.answers.keep("often", ANSWER, 1000)
    for key, times in (("often", 6), ("b", 1), ("c", 1), ("d", 1)):
        lfu.use(key, times)
    found = lfu.answers.look(["often", "b", "c", "d"])
    assert sorted(found) == ["c", "d", "often"]


def test_a_new_answer_enters_a_cache_full_of_used_ones(lfu: Bounded) -> None:
    for key in ("a", "b", "c"):
        lfu.answers.keep(key, ANSWER, 1000)
    for key, times in (("a", 3), ("b", 2), ("c", 4)):
        lfu.use(key, times)
    lfu.answers.keep("new", ANSWER, 1000)
    if lfu.database is None:  # the leader bounds a database later, when the new one has had its chance
        assert sorted(lfu.answers.look(["a", "b", "c", "new"])) == ["a", "c", "new"]


def test_what_a_process_answers_by_itself_counts_as_used(redis_url: str, clock: MovableClock) -> None:
    store = RedisAnswers(redis_url, clock, entries=MOST, longest_seconds=1000, eviction="lfu")
    process = LocalAnswers(store, clock, seconds=300, most_bytes=10**6)
    for key in ("often", "b", "c"):
        store.keep(key, ANSWER, 1000)
    store.look(["b", "c"])
    for _ in range(9):
        assert process.look(["often"])  # the store hears of the first alone
    clock.ahead += 11
    process.look(["often"])
    store.look(["b", "c"])
    store.keep("d", ANSWER, 1000)
    assert sorted(store.look(["often", "b", "c", "d"])) == ["c", "d", "often"]


def test_an_expired_answer_is_only_given_to_who_takes_stale_ones(lfu: Bounded) -> None:
    lfu.answers.keep("k", ANSWER, 100)
    lfu.clock.ahead = 101
    lfu.bound()
    assert not lfu.answers.look(["k"])
    assert lfu.answers.look(["k"], stale=True) == {"k": ANSWER}
    lfu.clock.ahead = 151
    lfu.bound()
    if lfu.database is not None:  # Redis removes it by its own clock
        assert not lfu.answers.look(["k"], stale=True)


@pytest.mark.parametrize("scope", ["client:a*", "client:a", "shared"])
def test_clearing_removes_the_answers_of_one_client_or_all(lfu: Bounded, scope: str) -> None:
    answers, others = lfu.answers, [f"{scope}b:{1}", "client:other:1"]
    for key in (f"{scope}:1", *others):
        answers.keep(key, ANSWER, 100)
    stamps = [answers.stamp()]
    assert answers.clear(scope) == 1
    stamps.append(answers.stamp())
    assert sorted(answers.look([f"{scope}:1", *others])) == sorted(others)
    assert (answers.count(), answers.clear(None), answers.count()) == (2, 2, 0)
    stamps.append(answers.stamp())
    assert all(one != other for one, other in pairwise(stamps))  # other processes drop what they remember


def test_clearing_reaches_what_this_process_remembers(answers: AnswerCache) -> None:
    answers.keep("client:a:1", ANSWER, 60)
    assert answers.look(["client:a:1"])
    answers.clear("client:a")
    assert not answers.look(["client:a:1"])
