"""A released task through its stages, over small fakes with state."""

import threading
from collections.abc import Callable
from dataclasses import replace

import orjson
import pytest

from app.execution.domain.retry import ModelRetryPolicy, RetryPolicy
from app.execution.in_flight import CallsInFlight, ReleasePermits, WorkerReadiness
from app.execution.run_task import KEY_MISSING_SECONDS, Policies, RunTask
from app.pacing.ports import WorkerReport
from app.platform.domain.errors import DatabaseUnreachable, RedisUnreachable
from app.platform.encryption import Unsealable
from app.tasks.domain.attempt import (
    AttemptEnd,
    Claim,
    Claimed,
    Outcome,
    Permit,
    Recorded,
    RefusedPermit,
    Settlement,
)
from app.tasks.domain.task import Status
from app.upstreams.domain.reply import Reply, TransportError, TransportErrorKind
from tests.attempts import NOW, a_claimed, a_completion, a_permit, a_reply
from tests.stack import wait_until


class FakeClock:
    """Time that tests move."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return NOW + self.at - 1000.0

    def monotonic(self) -> float:
        return self.at


class FakeGate:
    """Permits by task id; may be out of reach for so many settlements."""

    def __init__(self, *permits: Permit, refusal: str = "missing") -> None:
        self.permits = {permit.task_id: permit for permit in permits}
        self.refusal = refusal
        self.settled: list[Settlement] = []
        self.away_for = 0
        self.tried: Callable[[], object] = lambda: None
        self.lets_send = True
        self.asked_to_send: list[float] = []

    def redeem(self, task_id: str, worker: str) -> Permit | RefusedPermit:
        return self.permits.pop(task_id, None) or RefusedPermit(task_id, self.refusal)

    def may_send(self, permit: Permit, send_by: float) -> bool:
        self.asked_to_send.append(send_by)
        return self.lets_send

    def settle(self, settlements: list[Settlement]) -> None:
        self.tried()
        if self.away_for:
            self.away_for -= 1
            raise RedisUnreachable("away")
        if any(settlement.task_id == "bad" for settlement in settlements):
            raise ValueError("refused by the script")
        self.settled += settlements

    def report(self, report: WorkerReport) -> None: ...


class FakeRows:
    """The rows of a database: those that can be claimed, and what was recorded of them."""

    def __init__(self) -> None:
        self.rows = {"task_1": a_claimed()}
        self.ended: list[AttemptEnd] = []
        self.claim_error: Exception | None = None
        self.end_errors: list[Exception] = []
        self.recorded: Callable[[AttemptEnd], Recorded] = lambda ending: Recorded(
            ending.claimed.permit.task_id, True, ending.status
        )


class FakeClaims(FakeRows):
    def submit(self, item: Claim) -> Claimed | None:
        if self.claim_error:
            raise self.claim_error
        row = self.rows.pop(item.permit.task_id, None)
        return row and replace(row, permit=item.permit, worker=item.worker)


class FakeEndings:
    def __init__(self, rows: FakeRows) -> None:
        self.rows = rows

    def submit(self, item: AttemptEnd) -> Recorded:
        if self.rows.end_errors:
            raise self.rows.end_errors.pop(0)
        self.rows.ended.append(item)
        return self.rows.recorded(item)


class FakeUpstream:
    """Returns what the test wants, and counts what it was allowed to send."""

    def __init__(self) -> None:
        self.back: Reply | TransportError | Exception = a_reply(200, a_completion())
        self.sent = 0
        self.connecting: Callable[[], None] = lambda: None
        self.during: Callable[[], None] = lambda: None

    def call(
        self, claimed: Claimed, may_send: Callable[[], bool], pass_on: Callable[[bytes], None] | None = None
    ) -> Reply | TransportError:
        self.connecting()
        if not may_send():
            return TransportError(TransportErrorKind.NOT_SENT, "Nothing was sent.")
        self.sent += 1
        self.during()
        if isinstance(self.back, Exception):
            raise self.back
        return self.back


class World:
    def __init__(self) -> None:
        self.gate = FakeGate(a_permit())
        self.rows = FakeClaims()
        self.upstream = FakeUpstream()
        self.settling = ReleasePermits(self.gate)
        self.held, self.state, self.clock = CallsInFlight(), WorkerReadiness(), FakeClock()
        policies = Policies(
            {"default": RetryPolicy()}, {"deepseek-flash": ModelRetryPolicy("default", frozenset({"k1"}))}
        )
        self.runner = RunTask(
            worker="worker_1",
            permits=self.gate,
            claims=self.rows,
            upstream=self.upstream,
            endings=FakeEndings(self.rows),
            releases=self.settling,
            in_flight=self.held,
            readiness=self.state,
            policies=policies,
            clock=self.clock,
            parse=orjson.loads,
            chance=lambda: 0.5,
        )

    def run(self) -> tuple[str, str]:
        ran = self.runner.run("task_1")
        assert self.held.count() == 0
        return ran.kind, ran.reason

    def settlement(self) -> Settlement:
        """The only one."""
        self.settling.start()
        assert self.settling.close(10) == 0
        (settlement,) = self.gate.settled
        return settlement


@pytest.fixture
def world() -> World:
    return World()


def test_a_good_answer_is_recorded_and_its_permit_settled(world: World) -> None:
    assert world.run() == ("succeeded", "succeeded")
    (ending,) = world.rows.ended
    assert (ending.status, ending.usage is not None) == (Status.SUCCEEDED, True)
    settlement = world.settlement()
    assert (settlement.outcome, settlement.tokens, settlement.ended) == (Outcome.SUCCEEDED, 7, True)
    assert (settlement.called, settlement.brakes) == (True, ())


@pytest.mark.parametrize("reason", ["missing", "stale", "braked", "epoch", "unreachable"])
def test_a_refused_permit_drops_the_message_and_nothing_else(world: World, reason: str) -> None:
    world.gate.permits.clear()
    world.gate.refusal = reason
    assert world.run() == ("dropped", reason)
    assert (world.rows.ended, world.upstream.sent, world.gate.settled) == ([], 0, [])


@pytest.mark.parametrize("error", [None, DatabaseUnreachable("away"), RuntimeError("oops")])
def test_a_row_that_cannot_be_had_returns_the_permit_unused(world: World, error: Exception | None) -> None:
    world.rows.rows.clear()
    world.rows.claim_error = error
    assert world.run() == ("dropped", "not claimed")
    settlement = world.settlement()
    assert (settlement.outcome, settlement.called, settlement.ended) == (Outcome.RETURNED, False, False)
    assert world.upstream.sent == 0
    assert world.state.database_answers == (not isinstance(error, DatabaseUnreachable))


def test_a_call_whose_turn_to_be_sent_does_not_come_is_not_sent_and_goes_back_at_once(world: World) -> None:
    world.gate.lets_send = False
    assert world.run() == ("again", "returned")
    assert (world.gate.asked_to_send, world.upstream.sent) == ([1002.0], 0)
    (ending,) = world.rows.ended
    assert (ending.called, ending.counts, ending.available_at) == (False, False, NOW)
    settlement = world.settlement()
    assert (settlement.outcome, settlement.called) == (Outcome.RETURNED, False)


def test_the_call_may_be_sent_within_two_seconds_of_asking_for_the_permit(world: World) -> None:
    claims = world.rows

    class SlowClaims:
        def submit(self, item: Claim) -> Claimed | None:
            world.clock.at += 1.9
            return claims.submit(item)

    world.runner.claims = SlowClaims()
    world.run()
    assert (world.gate.asked_to_send, world.upstream.sent) == ([1002.0], 1)


def test_what_connecting_takes_counts_as_late_and_what_is_waited_for_does_not_count_as_the_call(
    world: World,
) -> None:
    asked_at: list[float] = []

    def connect() -> None:
        world.clock.at += 0.5

    def wait(permit: Permit, send_by: float) -> bool:
        asked_at.append(world.clock.at)
        world.clock.at += 0.75
        return True

    world.upstream.connecting = connect
    world.gate.may_send = wait  # type: ignore[method-assign]
    world.run()
    assert asked_at == [1000.5]
    assert world.settlement().seconds == 0.5


def test_what_was_not_sent_goes_back_and_does_not_count(world: World) -> None:
    world.upstream.back = TransportError(TransportErrorKind.NOT_SENT, "too late")
    assert world.run() == ("again", "returned")
    (ending,) = world.rows.ended
    assert (ending.status, ending.called, ending.counts) == (Status.QUEUED, False, False)
    settlement = world.settlement()
    assert (settlement.called, settlement.ended) == (False, False)


def test_a_refusal_brakes_the_quota_with_its_settlement(world: World) -> None:
    world.upstream.back = a_reply(429, b"{}", retry_after="3")
    assert world.run() == ("again", "rate_limited")
    settlement = world.settlement()
    (brake,) = settlement.brakes
    assert (brake.quota, settlement.tokens, settlement.ended) == ("account:acme:deepseek-flash", 0, False)
    assert brake.seconds >= 3


def test_a_failure_shows_a_code_and_no_word_of_the_upstream(world: World) -> None:
    world.upstream.back = a_reply(400, {"error": {"message": "you wrote SECRET PROMPT"}})
    assert world.run() == ("failed", "invalid_request")
    (ending,) = world.rows.ended
    assert ending.failure is not None
    assert "SECRET PROMPT" in ending.failure.message  # the client may read it


def test_a_requested_cancel_turns_a_retry_into_a_cancel(world: World) -> None:
    world.upstream.back = a_reply(500, b"")
    world.rows.recorded = lambda ending: Recorded("task_1", True, Status.CANCELLED)
    assert world.run() == ("cancelled", "unavailable")
    assert world.settlement().ended


def test_a_row_that_somebody_else_took_over_is_left_to_them_but_the_slot_comes_back(world: World) -> None:
    world.rows.recorded = lambda ending: Recorded("task_1", False)
    assert world.run() == ("dropped", "taken over")
    assert world.settlement().called


def test_a_result_is_held_until_the_database_is_back(world: World) -> None:
    world.rows.end_errors = [DatabaseUnreachable("away")] * 3
    seen: list[int] = []

    class Endings(FakeEndings):
        def submit(self, item: AttemptEnd) -> Recorded:
            seen.append(world.held.count())
            return super().submit(item)

    world.runner.endings = Endings(world.rows)
    assert world.run() == ("succeeded", "succeeded")
    assert seen == [1, 1, 1, 1]  # held in memory all the while
    assert not world.state.database_answers
    assert world.settlement().ended


def test_a_result_that_no_database_takes_is_recorded_without_its_content(world: World) -> None:
    world.rows.end_errors = [ValueError("bad content")] * 3
    assert world.run() == ("failed", "not_recordable")
    (ending,) = world.rows.ended
    assert (ending.status, ending.result) == (Status.FAILED, None)


def test_a_process_that_ends_leaves_the_row_to_the_leader(world: World) -> None:
    world.rows.end_errors = [DatabaseUnreachable("away")] * 100
    world.state.giving_up.set()
    assert world.run() == ("dropped", "not recorded")
    assert not world.settlement().ended


def test_an_error_of_our_own_still_ends_the_row_and_settles_the_permit(world: World) -> None:
    world.upstream.back = KeyError("k1")
    assert world.run() == ("again", "unavailable")
    assert world.settlement().outcome is Outcome.UNAVAILABLE


def test_a_stopping_process_takes_nothing_new_and_spends_no_permit(world: World) -> None:
    world.state.draining.set()
    assert world.run() == ("dropped", "stopping")
    assert "task_1" in world.gate.permits


def test_a_call_is_held_with_its_release_while_it_runs(world: World) -> None:
    seen: list[object] = []
    world.upstream.during = lambda: seen.append(world.held.pairs())
    world.run()
    assert seen == [(("task_1", 7),)]


def test_waiting_until_idle_ends_with_the_last_message(world: World) -> None:
    begun, end = threading.Event(), threading.Event()

    def during() -> None:
        begun.set()
        assert end.wait(60)

    world.upstream.during = during
    thread = threading.Thread(target=world.run)
    thread.start()
    assert begun.wait(60)
    assert not world.held.wait_until_idle(0.01)
    end.set()
    assert world.held.wait_until_idle(10)
    thread.join(60)


def test_who_ends_a_call_settles_it_himself() -> None:
    gate = FakeGate()
    settling = ReleasePermits(gate)
    settling.start()
    settling.add(Settlement("task_1", 7, Outcome.SUCCEEDED))
    assert [settlement.task_id for settlement in gate.settled] == ["task_1"]
    assert settling.close(10) == 0


def test_while_redis_is_away_nobody_but_one_thread_waits_for_it() -> None:
    gate, tried = FakeGate(), list[str]()
    gate.away_for = 1000
    gate.tried = lambda: tried.append(threading.current_thread().name)
    settling = ReleasePermits(gate)
    settling.start()
    for name in ("task_1", "task_2", "task_3"):
        settling.add(Settlement(name, 7, Outcome.SUCCEEDED))
    wait_until(lambda: len(tried) > 2)
    assert tried[0] == threading.current_thread().name
    assert set(tried[1:]) == {"release-permits"}
    gate.away_for = 0
    assert settling.close(60) == 0
    assert len(gate.settled) == 3


def test_settlements_are_repeated_while_redis_is_away() -> None:
    gate = FakeGate()
    gate.away_for = 2
    settling = ReleasePermits(gate)
    settling.add(Settlement("task_1", 7, Outcome.SUCCEEDED))
    settling.start()
    wait_until(lambda: gate.settled)
    assert settling.close(10) == 0
    assert gate.away_for == 0


def test_one_refused_settlement_does_not_hold_up_the_others() -> None:
    gate = FakeGate()
    settling = ReleasePermits(gate)
    for name in ("task_1", "bad", "task_2"):
        settling.add(Settlement(name, 7, Outcome.SUCCEEDED))
    settling.start()
    assert settling.close(10) == 0
    assert [settlement.task_id for settlement in gate.settled] == ["task_1", "task_2"]


def test_at_the_end_unsettled_permits_are_counted() -> None:
    gate = FakeGate()
    gate.away_for = 1000
    settling = ReleasePermits(gate)
    settling.add(Settlement("task_1", 7, Outcome.SUCCEEDED))
    settling.start()
    assert settling.close(0.05) == 1
    gate.away_for = 0
    wait_until(lambda: gate.settled)  # the thread ends with it


@pytest.mark.parametrize(
    ("asked", "model", "policy"),
    [
        (None, "deepseek-flash", 3),
        ("patient", "deepseek-flash", 9),
        ("gone", "deepseek-flash", 5),
        (None, "gone", 5),
    ],
)
def test_the_request_names_the_policy_else_its_model_does(asked: str | None, model: str, policy: int) -> None:
    retries = {"default": RetryPolicy(5), "model": RetryPolicy(3), "patient": RetryPolicy(9)}
    policies = Policies(retries, {"deepseek-flash": ModelRetryPolicy("model", frozenset({"k1", "k2"}))})
    claimed = a_claimed(retry=asked, model=model)
    assert policies.retry_of(claimed).attempts == policy
    assert policies.keys_of(claimed) == ({"k1", "k2"} if model != "gone" else {"k1"})


def test_a_task_whose_content_key_is_missing_is_put_off_before_its_permit_goes_back(world: World) -> None:
    """Else it would be released and given back without end."""
    world.rows.claim_error = Unsealable("content was encrypted by the key ab12cd34", "ab12cd34")
    put_off: list[tuple[object, ...]] = []

    def remember(*how: object) -> None:
        assert world.gate.settled == []
        put_off.append(how)

    world.runner.postpone = remember
    assert world.runner.run("task_1").reason == "not claimed"
    assert world.settlement().outcome is Outcome.RETURNED
    assert put_off == [("task_1", world.clock.now() + KEY_MISSING_SECONDS, "content_key_missing:ab12cd34")]


def test_the_permit_goes_back_also_when_a_task_cannot_be_put_off(world: World) -> None:
    world.rows.claim_error = Unsealable("no key", "ab12cd34")

    def away(*_how: object) -> None:
        raise DatabaseUnreachable("gone")

    world.runner.postpone = away
    world.runner.run("task_1")
    assert world.settlement().outcome is Outcome.RETURNED
