"""Whatever clients ask, in whatever order, nobody ever receives another's answer, cached or shared in flight."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select

from app.caching.domain.caching import CacheParams, CacheRules, CacheScope, Mode
from app.caching.local_answers import LocalAnswers
from app.caching.store.database_answers import DatabaseAnswers
from app.caching.use_cache import JoinIdentical, UseCache
from app.execution.run_task import KeepAnswers
from app.execution.store.claims import claim
from app.execution.store.endings import end
from app.platform.database import Database
from app.submission.check_request import SubmissionRules
from app.submission.domain.request import TaskRequest
from app.submission.submit_task import SubmitTask
from app.tasks.domain.attempt import AttemptEnd, Claim, Finish, Message, Outcome, Permit, Refusal, TokenUsage
from app.tasks.domain.task import Status
from app.tasks.store.tables import task, task_content
from tests.caching.clocks import MovableClock

CLIENTS = ("alice", "bob", "carol")
asks = st.tuples(
    st.just("ask"),
    st.sampled_from(CLIENTS),
    st.integers(0, 2),
    st.sampled_from([None, *Mode]),
    st.booleans(),
)
works = st.tuples(st.just("work"), st.sampled_from(["one", "fail one", "all"]))
steps = st.lists(asks | asks | works, max_size=25)


class Somewhere:
    """A publisher that takes everything and loses it: this test claims rows by itself."""

    def publish(self, messages: Sequence[Message], *, feeding: bool = False) -> Mapping[str, Refusal]:
        return {}

    def forget(self, task_ids: Iterable[str]) -> None: ...

    def announce(self, task_ids: Iterable[str]) -> None: ...

    def wake(self) -> None: ...


class Service:
    """Submissions, a worker and the leader's look, on one database."""

    def __init__(self, database: Database) -> None:
        self.database, self.clock = database, MovableClock()
        self.kept = DatabaseAnswers(database, self.clock)
        local = LocalAnswers(self.kept, self.clock, seconds=300, most_bytes=10**6)
        rules = SubmissionRules(frozenset({"m"}), "m", cache=CacheRules(shared=True))
        self.submissions = SubmitTask(
            database, Somewhere(), rules, self.clock, None, UseCache(local, coalesce=True)
        )
        self.keeping = KeepAnswers(orjson.loads, cache=self.kept)
        self.joiner = JoinIdentical(database, Somewhere(), self.kept, self.clock, coalesce=True)
        self.numbers = count(1)
        self.asked: dict[str, tuple[str, str, bool]] = {}  # task: client, prompt, shared

    def ask(self, client: str, prompt: str, mode: Mode | None, shared: bool) -> None:
        request = TaskRequest(
            messages=[{"role": "user", "content": prompt}],
            parameters={"temperature": 0},
            cache=CacheParams(mode=mode, scope=CacheScope.SHARED if shared else None),
        )
        self.asked[self.submissions.submit(client, request).task_id] = (client, prompt, shared)

    def work(self, most: int, *, fail: bool = False) -> int:
        """Call for waiting rows: each answer says whose call it was."""
        while self.joiner.tick():
            pass
        waiting = select(task.c.id).where(task.c.status == "queued", task.c.hold == 0).order_by(task.c.seq)
        ids = self.database.read(lambda conn: conn.execute(waiting.limit(most)).scalars().all())
        for name in ids:
            self._run(name, fail)
        return len(ids)

    def results(self) -> Iterator[tuple[str, Any]]:
        both = select(task.c.id, task_content.c.result).join(task_content, task_content.c.seq == task.c.seq)
        for name, result in self.database.read(lambda conn: conn.execute(both).all()):
            if result is not None:
                yield name, orjson.loads(result)

    def close(self) -> None:
        self.submissions.close()
        self.kept.close()

    def _run(self, name: str, fail: bool) -> None:
        now, release = self.clock.now(), next(self.numbers)
        permit = Permit(name, release, "k", "up", "a", "m", (), 1, now)
        claimed = self.database.write(lambda conn: claim(conn, [Claim(permit, "w", now)])).get(name)
        if claimed is None:
            return
        client, prompt, _ = self.asked[name]
        result = {"whose": client, "prompt": prompt, "choices": [{"finish_reason": "stop"}]}
        ending = AttemptEnd(
            claimed,
            Outcome.INVALID_REQUEST if fail else Outcome.SUCCEEDED,
            Status.FAILED if fail else Status.SUCCEEDED,
            now,
            counts=True,
            result=None if fail else orjson.dumps(result).decode(),
            finish=None if fail else Finish.COMPLETE,
            usage=None if fail else TokenUsage(1, 1),
        )
        self.keeping.keep(ending)
        self.database.write(lambda conn: _record(conn, ending))


def _record(conn: Connection, ending: AttemptEnd) -> None:
    assert end(conn, [ending])[0].held


@pytest.fixture
def service(database: Database) -> Iterator[Service]:
    service = Service(database)
    yield service
    service.close()


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_no_client_ever_receives_anothers_answer(service: Service, drawn: list[tuple[Any, ...]]) -> None:
    for step in drawn:
        if step[0] == "ask":
            _, client, prompt, mode, shared = step
            service.ask(client, f"prompt {prompt}", mode, shared)
        else:
            service.work(100 if step[1] == "all" else 1, fail=step[1] == "fail one")
    while service.work(100):
        pass
    for name, result in service.results():
        client, prompt, shared = service.asked[name]
        assert result["prompt"] == prompt
        if not shared:
            assert result["whose"] == client
        elif result["whose"] != client:
            assert any(asked == (result["whose"], prompt, True) for asked in service.asked.values()), (
                "a shared answer comes from one who shared it"
            )


def test_two_clients_who_both_share_pay_once(service: Service) -> None:
    for client in ("alice", "bob"):
        service.ask(client, "together", Mode.WRITE, True)
    assert service.work(100) == 1
    assert [result["whose"] for _, result in service.results()] == ["alice", "alice"]


def test_one_who_does_not_share_is_asked_for_alone(service: Service) -> None:
    service.ask("alice", "mine", Mode.WRITE, True)
    service.ask("bob", "mine", Mode.WRITE, False)
    assert service.work(100) == 2
