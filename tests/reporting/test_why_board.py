"""What the leader tells reaches whoever asks."""

from __future__ import annotations

from app.dispatching.publish_wait_reasons import PublishWaitReasons
from app.pacing.domain.backlog import QueuePosition
from app.pacing.domain.why import NO_LEADER, NO_REDIS
from app.pacing.ports import Explanation, Queued
from app.platform.redis_scripts import Scripts, connect
from app.reporting.store.pacing_snapshot import WaitReasonReader, WaitReasonWriter
from app.settings.domain.routing import ConfiguredQuota
from app.tasks.domain.task import NOT_DUE, Hold
from tests.pacing.pacing_world import GateWorld, HandClock, one_key


class QueuePositions:
    """A line as it was told."""

    def __init__(self, line: QueuePosition | None = None) -> None:
        self.line = line

    def of(self, queue: str, step: int) -> QueuePosition | None:
        return self.line

    def coming(self, queue: str, step: int, due: float) -> int | None:
        return None if self.line is None else self.line.ahead_of_new(due)


def queued(sequence: int, hold: int = Hold.NONE) -> Queued:
    return Queued("t", sequence, "m", "alice", "backlog.m.alice", 3, hold, 1500.0, None)


def told(url: str, line: QueuePosition | None = None) -> WaitReasonReader:
    return WaitReasonReader(Scripts(connect(url, timeout=60)), HandClock(), QueuePositions(line))


def test_position_start_and_reason_of_a_waiting_task(redis_url: str) -> None:
    world = GateWorld(redis_url, one_key(ConfiguredQuota("account:a1:m", concurrency=2))).lead()
    world.dispatcher.why = PublishWaitReasons(WaitReasonWriter(world.scripts))
    messages = world.publish(10)
    world.dispatcher.tick()
    world.dispatcher.why._due = 0.0
    world.dispatcher.tick()
    left = QueuePosition(
        [(NOT_DUE, message.sequence) for message in messages[2:]], newest=messages[-1].sequence
    )
    said = told(redis_url, left).explain(queued(messages[5].sequence))
    assert said.position == 4
    assert said.waiting_for == "one of 2 concurrent calls to finish (account a1, model m)"
    assert (
        said.estimated_start_at == 1000.0 + 3 / 2
    )  # two calls at once, of a second each as long as none ended
    foreseen = told(redis_url, left).foresee("m", "backlog.m.alice", 3, NOT_DUE)
    assert foreseen is not None
    assert (foreseen.ahead, foreseen.starts_in(2)) == (8, 5.0)


def test_with_nothing_waiting_a_task_is_expected_to_start_at_once(redis_url: str) -> None:
    world = GateWorld(redis_url, one_key(ConfiguredQuota("account:a1:m", concurrency=2))).lead()
    world.dispatcher.why = PublishWaitReasons(WaitReasonWriter(world.scripts))
    world.dispatcher.tick()
    foreseen = told(redis_url, QueuePosition()).foresee("m", "backlog.m.alice", 3, NOT_DUE)
    assert foreseen is not None
    assert foreseen.starts_in() == 0.0
    assert foreseen.starts_in(10) == 5.0


def test_without_a_leader_or_redis_the_place_is_known_and_that(redis_url: str) -> None:
    for url, words in ((redis_url, NO_LEADER), ("redis://127.0.0.1:1/0", NO_REDIS)):
        assert told(url).explain(queued(1)) == Explanation(waiting_for=words)
        placed = told(url, QueuePosition([(NOT_DUE, 1)])).explain(queued(1))
        assert placed == Explanation(position=1, waiting_for=words)
        assert told(url, QueuePosition()).foresee("m", "q", 3, NOT_DUE) is None


def test_a_held_task_needs_nobody_to_say_why(redis_url: str) -> None:
    said = told(redis_url).explain(queued(1, Hold.UNTIL))
    assert said.estimated_start_at == 1500.0
    assert "its scheduled time" in (said.waiting_for or "")
