"""The limits on a virtual clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.limits import Gate, Limit, SimulatedCaller, TokenBucket

ALICE = SimulatedCaller("sk-alice", "acme", "deepseek-flash")
ALICE_PRO = SimulatedCaller("sk-alice", "acme", "deepseek-v4-pro")
BOB = SimulatedCaller("sk-bob", "acme", "deepseek-flash")
STRANGER = SimulatedCaller("sk-stranger", "other", "deepseek-flash")

gaps = st.floats(0, 20, allow_nan=False)
limits = st.builds(
    Limit,
    key=st.just("*"),
    rpm=st.none() | st.floats(1, 600),
    tpm=st.none() | st.floats(60, 6000),
    concurrency=st.none() | st.integers(0, 4),
    burst_seconds=st.sampled_from([0.0, 1.0, 2.0, 60.0]),
)
steps = st.lists(st.tuples(gaps, st.integers(1, 400), st.booleans()), max_size=60)


def admitted(gate: Gate, caller: SimulatedCaller, count: int, now: float = 0.0, tokens: int = 1) -> int:
    return sum(gate.admit(caller, tokens, now) is None for _ in range(count))


@given(limits, steps)
def test_never_more_is_admitted_than_a_limit_allows(
    limit: Limit, calls: list[tuple[float, int, bool]]
) -> None:
    gate, now, passed, in_flight = Gate([limit], 0.0), 0.0, [], 0
    for gap, tokens, ends in calls:
        now += gap
        if ends and in_flight:
            gate.release(ALICE)
            in_flight -= 1
        if gate.admit(ALICE, tokens, now) is None:
            passed.append((now, tokens))
            in_flight += 1
        assert limit.concurrency is None or in_flight <= limit.concurrency
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            window = passed[first : last + 1]
            seconds = window[-1][0] - window[0][0]
            if limit.rpm is not None:
                assert len(window) <= capacity(limit.rpm, limit) + limit.rpm / 60 * seconds + 1e-6
            if limit.tpm is not None:
                # What is larger than the bucket passes when it is full: at most one such is ahead of the rest.
                overdraft = max(0.0, window[-1][1] - capacity(limit.tpm, limit))
                total = sum(tokens for _, tokens in window)
                assert total <= capacity(limit.tpm, limit) + limit.tpm / 60 * seconds + overdraft + 1e-6


def capacity(per_minute: float, limit: Limit) -> float:
    return max(1.0, per_minute / 60 * limit.burst_seconds)


@given(limits, steps)
def test_a_refused_call_passes_after_the_seconds_it_was_told(
    limit: Limit, calls: list[tuple[float, int, bool]]
) -> None:
    gate, now = Gate([limit], 0.0), 0.0
    for gap, tokens, _ in calls:
        now += gap
        refusal = gate.admit(ALICE, tokens, now)
        if refusal is None:
            gate.release(ALICE)
        elif refusal.reason == "rpm":
            later = now + refusal.retry_after_seconds + 1e-6
            again = gate.admit(ALICE, tokens, later)
            assert again is None or again.reason == "tpm"
            if again is None:
                gate.release(ALICE)
            now = later


@given(steps)
def test_a_call_refused_by_one_limit_takes_nothing_from_another(calls: list[tuple[float, int, bool]]) -> None:
    shut = Limit(account="acme", concurrency=0)
    open_limit = Limit(key="*", rpm=60, tpm=6000, burst_seconds=60)
    gate, now = Gate([open_limit, shut], 0.0), 0.0
    for gap, tokens, _ in calls:
        now += gap
        refusal = gate.admit(ALICE, tokens, now)
        assert refusal is not None
        assert refusal.reason == "concurrency"
    gate.replace([open_limit], now)
    assert admitted(gate, ALICE, 100, now) == 60


def test_a_bucket_holds_two_seconds_of_its_rate_by_default() -> None:
    assert admitted(Gate([Limit(key="*", rpm=600)], 0.0), ALICE, 100) == 20


def test_a_bucket_holds_at_least_one() -> None:
    assert admitted(Gate([Limit(key="*", rpm=6)], 0.0), ALICE, 100) == 1


def test_a_steady_stream_at_the_rate_is_never_refused() -> None:
    gate = Gate([Limit(key="*", rpm=600)], 0.0)
    assert all(gate.admit(ALICE, 1, second / 10) is None for second in range(10_000))


def test_more_tokens_than_the_bucket_holds_pass_when_it_is_full_and_leave_a_debt() -> None:
    gate = Gate([Limit(key="*", tpm=600)], 0.0)  # 10 a second, 20 at most
    assert gate.admit(ALICE, 120, 0.0) is None
    refusal = gate.admit(ALICE, 1, 0.0)
    assert refusal is not None
    assert refusal.reason == "tpm"
    assert refusal.retry_after_seconds == pytest.approx(10.1)
    assert gate.admit(ALICE, 1, 10.1) is None


def test_two_keys_share_their_accounts_limit_and_a_stranger_has_another() -> None:
    gate = Gate([Limit(account="*", rpm=600)], 0.0)
    assert admitted(gate, ALICE, 15) + admitted(gate, BOB, 15) == 20
    assert admitted(gate, STRANGER, 30) == 20


def test_each_key_has_its_own_limit() -> None:
    gate = Gate([Limit(key="*", rpm=600)], 0.0)
    assert [admitted(gate, caller, 30) for caller in (ALICE, BOB, STRANGER)] == [20, 20, 20]


def test_a_limit_of_a_named_key_leaves_others_alone() -> None:
    gate = Gate([Limit(key="sk-alice", rpm=600)], 0.0)
    assert [admitted(gate, caller, 30) for caller in (ALICE, BOB)] == [20, 30]


def test_a_limit_of_all_models_counts_them_together() -> None:
    gate = Gate([Limit(account="*", model="*", rpm=600)], 0.0)
    assert admitted(gate, ALICE, 15) + admitted(gate, ALICE_PRO, 15) == 20


def test_a_limit_of_each_model_counts_them_apart() -> None:
    gate = Gate([Limit(account="*", model="each", rpm=600)], 0.0)
    assert [admitted(gate, caller, 30) for caller in (ALICE, ALICE_PRO)] == [20, 20]


def test_a_limit_without_owner_is_shared_by_everybody() -> None:
    gate = Gate([Limit(model="deepseek-flash", rpm=600)], 0.0)
    assert admitted(gate, ALICE, 15) + admitted(gate, STRANGER, 15) == 20


def test_a_limit_given_twice_counts_once() -> None:
    assert admitted(Gate([Limit(key="*", rpm=600)] * 2, 0.0), ALICE, 100) == 20


def test_a_released_call_makes_room_for_one() -> None:
    gate = Gate([Limit(account="*", concurrency=3)], 0.0)
    assert admitted(gate, ALICE, 5) == 3
    gate.release(ALICE)
    assert admitted(gate, BOB, 5) == 1


def test_calls_in_flight_stay_counted_when_limits_change() -> None:
    gate = Gate([], 0.0)
    assert admitted(gate, ALICE, 4) == 4
    gate.replace([Limit(account="*", concurrency=5)], 1.0)
    assert admitted(gate, BOB, 5) == 1


def test_an_unchanged_limit_keeps_its_state_when_others_change() -> None:
    kept = Limit(key="*", rpm=600)
    gate = Gate([kept], 0.0)
    assert admitted(gate, ALICE, 30) == 20
    gate.replace([kept, Limit(account="*", rpm=6000)], 0.0)
    assert admitted(gate, ALICE, 30) == 0


def test_an_instant_that_comes_late_does_not_turn_time_back() -> None:
    bucket = TokenBucket(60, 1.0, 0.0)
    bucket.take(1, 10.0)
    assert bucket.level(5.0) == 0
    assert bucket.level(10.5) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "fields",
    [{"key": "a", "account": "b"}, {"rpm": 0}, {"tpm": -1}, {"concurrency": -1}, {"burst_seconds": -1}],
)
def test_a_limit_that_makes_no_sense_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        Limit(**fields)
