"""Clients' requests per minute in a real Redis: a bucket for each client, shared by all API processes."""

from __future__ import annotations

import redis

from app.access.request_rates import RedisRates
from app.platform.redis_scripts import Scripts, connect
from tests.pacing.pacing_world import HandClock


def rates(url: str, clock: HandClock | None = None) -> RedisRates:
    return RedisRates(Scripts(connect(url, timeout=60)), clock or HandClock())


def let_pass(url: str, client_id: str, seconds: float) -> None:
    """Time passes for a client's bucket."""
    with redis.Redis.from_url(url) as connection:
        key = f"penstock:rpm:{client_id}"
        connection.hset(key, "at", str(float(connection.hget(key, "at") or 0) - seconds))  # type: ignore[arg-type]


def test_two_processes_share_one_bucket_and_a_stranger_has_his_own(redis_url: str) -> None:
    one, other = rates(redis_url), rates(redis_url)
    # 6 a minute: one comes back in ten seconds, far longer than this test takes.
    taken = [(one if number % 2 else other).take("alice", 6) for number in range(7)]
    assert [rate.allowed for rate in taken if rate] == [True] * 6 + [False]
    assert [rate.left for rate in taken if rate] == [5, 4, 3, 2, 1, 0, 0]
    last = taken[-1]
    assert last is not None
    assert 0 < last.retry_after <= 10
    assert 50 < last.full_in <= 60
    stranger = one.take("stranger", 6)
    assert stranger is not None
    assert (stranger.allowed, stranger.left) == (True, 5)


def test_a_bucket_fills_evenly_and_no_further_than_a_minutes_worth(redis_url: str) -> None:
    mine = rates(redis_url)
    for _ in range(6):
        mine.take("alice", 6)
    let_pass(redis_url, "alice", 20)
    refilled = [mine.take("alice", 6) for _ in range(3)]
    assert [rate.allowed for rate in refilled if rate] == [True, True, False]
    let_pass(redis_url, "alice", 3600)
    full = mine.take("alice", 6)
    assert full is not None
    assert (full.allowed, full.left) == (True, 5)


def test_a_lowered_limit_is_in_force_at_once_and_a_step_back_of_the_clock_refuses_nobody(
    redis_url: str,
) -> None:
    mine = rates(redis_url)
    mine.take("alice", 600)
    lowered = mine.take("alice", 6)
    assert lowered is not None
    assert (lowered.allowed, lowered.left) == (True, 5)
    let_pass(redis_url, "alice", -3600)
    again = mine.take("alice", 6)
    assert again is not None
    assert (again.allowed, again.left) == (True, 4)


def test_without_redis_everybody_passes_and_it_is_not_asked_again_at_once() -> None:
    clock = HandClock()
    mine = rates("redis://127.0.0.1:1/0", clock)
    assert mine.take("alice", 1) is None
    assert mine.take("alice", 1) is None
    clock.at += 2
    assert mine.take("alice", 1) is None
