"""Identical tasks make one call, however looks into the cache and the end of the first call interleave."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import count
from threading import Event, Thread

import orjson
import pytest
from sqlalchemy import select

from app.caching.domain.caching import CachedAnswer, CacheParams, CacheRules, Mode, NoAnswers
from app.caching.store.database_answers import DatabaseAnswers
from app.caching.use_cache import JoinIdentical, UseCache
from app.execution.run_task import KeepAnswers
from app.execution.store.claims import claim
from app.execution.store.endings import end
from app.platform.database import Database
from app.submission.check_request import SubmissionRules
from app.submission.domain.request import BatchRequest, TaskRequest
from app.submission.submit_batch import SubmitBatch
from app.submission.submit_task import SubmitTask, Submitted
from app.tasks.domain.attempt import AttemptEnd, Claim, Finish, Message, Outcome, Permit, Refusal, TokenUsage
from app.tasks.domain.task import Status
from app.tasks.store.tables import task
from tests.caching.clocks import MovableClock

RULES = SubmissionRules(frozenset({"m"}), "m", cache=CacheRules())
REQUEST = TaskRequest(
    messages=[{"role": "user", "content": "the same"}],
    parameters={"temperature": 0},
    cache=CacheParams(mode=Mode.WRITE),
)
NOBODY = lambda: None  # noqa: E731


class Published:
    """A publisher that remembers what it was given."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def publish(self, messages: Sequence[Message], *, feeding: bool = False) -> Mapping[str, Refusal]:
        self.ids += [message.task_id for message in messages]
        return {}

    def forget(self, task_ids: Iterable[str]) -> None: ...

    def announce(self, task_ids: Iterable[str]) -> None: ...

    def wake(self) -> None: ...


class Slow(NoAnswers):
    """An answer cache; between its first answer and whoever asked, something happens."""

    def __init__(self, inner: DatabaseAnswers) -> None:
        self.inner, self.meanwhile = inner, NOBODY

    def look(self, keys: Collection[str], *, stale: bool = False) -> Mapping[str, CachedAnswer]:
        found = self.inner.look(keys)
        meanwhile, self.meanwhile = self.meanwhile, NOBODY
        meanwhile()
        return found

    def keep(self, key: str, answer: CachedAnswer, seconds: float) -> None:
        self.inner.keep(key, answer, seconds)

    def stamp(self) -> str | None:
        return self.inner.stamp()

    def close(self) -> None:
        self.inner.close()


class Process:
    """What one process has: connections, a cache, a way in, the leader's look, and a worker."""

    releases = count(1)

    def __init__(self, url: str) -> None:
        self.clock, self.publisher = MovableClock(), Published()
        self.database = Database(url)
        self.cache = Slow(DatabaseAnswers(self.database, self.clock))
        use = UseCache(self.cache, coalesce=True)
        self.tasks = SubmitTask(self.database, self.publisher, RULES, self.clock, None, use)
        self.batches = SubmitBatch(self.database, self.publisher, RULES, self.clock)
        self.joiner = JoinIdentical(self.database, self.publisher, self.cache, self.clock, coalesce=True)
        self.keeping = KeepAnswers(orjson.loads, cache=self.cache.inner)

    def submit(self) -> Submitted:
        return self.tasks.submit("alice", REQUEST)

    def waiting(self) -> list[str]:
        """Tasks that a worker would be given."""
        found = select(task.c.id).where(task.c.status == "queued", task.c.hold == 0)
        return list(self.database.read(lambda conn: conn.execute(found).scalars()))

    def begin(self) -> Callable[[], None]:
        """Claim the one that waits; returns what ends its call."""
        (name,), now = self.waiting(), self.clock.now()
        permit = Permit(name, next(self.releases), "k", "up", "a", "m", (), 1, now)
        claimed = self.database.write(lambda conn: claim(conn, [Claim(permit, "w", now)]))[name]
        result = orjson.dumps({"choices": [{"finish_reason": "stop"}]}).decode()
        ending = AttemptEnd(
            claimed,
            Outcome.SUCCEEDED,
            Status.SUCCEEDED,
            now,
            counts=True,
            result=result,
            finish=Finish.COMPLETE,
            usage=TokenUsage(1, 1),
        )

        def finish() -> None:
            self.keeping.keep(ending)
            assert self.database.write(lambda conn: end(conn, [ending]))[0].held

        return finish

    def states(self) -> list[str]:
        return list(self.database.read(lambda conn: conn.execute(select(task.c.status)).scalars()))

    def close(self) -> None:
        self.tasks.close()
        self.cache.close()
        self.database.close()


@pytest.fixture
def processes(database: Database, database_url: str) -> Iterator[tuple[Process, Process]]:
    """Two processes on one migrated database."""
    both = Process(database_url), Process(database_url)
    yield both
    for process in both:
        process.close()


@pytest.mark.parametrize("other", [0, 1], ids=["same process", "another process"])
def test_a_task_that_looked_before_the_first_call_ended_takes_its_answer(
    processes: tuple[Process, Process], other: int
) -> None:
    first, second = processes[0], processes[other]
    first.submit()
    second.cache.meanwhile = first.begin()
    submitted = second.submit()
    assert submitted.answered
    assert second.waiting() == []
    assert second.states() == ["succeeded"] * 2
    assert submitted.task_id not in second.publisher.ids


def test_lines_of_a_batch_that_looked_before_the_first_call_ended_take_its_answer(
    processes: tuple[Process, Process],
) -> None:
    first, second = processes
    first.submit()
    second.batches.submit("alice", BatchRequest(), [REQUEST] * 3)
    second.cache.meanwhile = first.begin()
    assert second.joiner.tick(), "there is more to do at once"
    assert second.waiting() == []
    second.joiner.tick()
    assert second.states() == ["succeeded"] * 4


def test_an_entry_last_used_long_ago_is_found_within_the_transaction(
    processes: tuple[Process, Process],
) -> None:
    """Its use is to be noted then, which is a write: not within another one."""
    first, second = processes
    first.submit()
    finish = first.begin()

    def meanwhile() -> None:
        finish()
        first.clock.ahead = second.clock.ahead = 700.0

    second.cache.meanwhile = meanwhile
    assert second.submit().answered


def test_without_an_answer_the_next_one_leads(processes: tuple[Process, Process]) -> None:
    """A call that ended without an answer worth keeping leaves nothing to take."""
    first, second = processes
    first.submit()
    first.keeping = KeepAnswers(orjson.loads, cache=first.cache.inner, max_bytes=1)
    second.cache.meanwhile = first.begin()
    submitted = second.submit()
    assert not submitted.answered
    assert second.waiting() == [submitted.task_id]


def test_many_at_once_over_two_processes_make_one_call(processes: tuple[Process, Process]) -> None:
    done, calls = Event(), list[str]()

    def work() -> None:
        while not done.is_set() or processes[1].waiting():
            for name in processes[1].waiting():
                calls.append(name)
                processes[1].begin()()
            done.wait(0.002)

    worker = Thread(target=work)
    worker.start()
    threads = [
        Thread(target=lambda process=process: [process.submit() for _ in range(12)])
        for process in processes * 3
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    done.set()
    worker.join(60)
    processes[0].clock.ahead = 5.0
    while processes[0].joiner.tick():  # followers whom the end of the call could not see yet
        pass
    assert len(calls) == 1
    assert processes[0].states() == ["succeeded"] * 72
