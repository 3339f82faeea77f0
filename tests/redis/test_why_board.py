"""What the leader tells reaches whoever asks."""

from __future__ import annotations

from app.adapters.redis_scripts import Scripts, connect
from app.adapters.why_board import ToldReasons, WhyBoard
from app.domain.quota import Quota
from app.domain.task import Hold
from app.services.ports import Explanation, Queued
from app.services.tell_why import TellWhy
from tests.redis.gate_world import GateWorld, HandClock, one_key


def queued(sequence: int, hold: int = Hold.NONE) -> Queued:
    return Queued("t", sequence, "m", "alice", "backlog.m.alice", 3, hold, 1500.0, None)


def test_position_start_and_reason_of_a_waiting_task(redis_url: str) -> None:
    world = GateWorld(redis_url, one_key(Quota("account:a1:m", concurrency=2))).lead()
    world.dispatcher.why = TellWhy(WhyBoard(world.scripts))
    messages = world.publish(10)
    world.dispatcher.turn()
    world.dispatcher.why._due = 0.0
    world.dispatcher.turn()
    told = ToldReasons(world.scripts, HandClock()).explain(queued(messages[5].sequence))
    assert told.position == 4
    assert told.waiting_for == "one of 2 calls at once to end (account a1, model m)"
    assert told.estimated_start_at is not None


def test_without_a_leader_or_redis_nothing_is_said(redis_url: str) -> None:
    assert (
        ToldReasons(Scripts(connect(redis_url, timeout=1)), HandClock()).explain(queued(1)) == Explanation()
    )
    gone = Scripts(connect("redis://127.0.0.1:1/0", timeout=0.2))
    assert ToldReasons(gone, HandClock()).explain(queued(1)) == Explanation()


def test_a_held_task_needs_nobody_to_say_why(redis_url: str) -> None:
    told = ToldReasons(Scripts(connect(redis_url, timeout=1)), HandClock()).explain(queued(1, Hold.UNTIL))
    assert told.estimated_start_at == 1500.0
    assert "its time" in (told.waiting_for or "")
