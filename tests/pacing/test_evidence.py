"""Evidence that an upstream is dead: how rarely it is false, by calculation and by chance, and how soon it is there."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pacing.domain.breaker import (
    DEAD,
    NOISE,
    QUIET,
    SUCCESS,
    BreakerState,
    CircuitBreaker,
    Evidence,
    threshold,
)
from app.tasks.domain.attempt import Outcome

RATES = (0.1, 1.0, 10.0, 50.0, 500.0)  # calls a second
FEW = 0.1


def mean_calls_to_alarm(failing: float, at: int) -> float:
    """Exact: m(s) = 1 + q m(s + 1) + (1 - q) m(max(0, s - 4)) with m(at) = 0, solved for m(0).

    With m(s) = m(0) - b(s) it is b(s + 1) = (b(s) + 1 - (1 - q) b(max(0, s - 4))) / q and m(0) = b(at).
    """
    below = [0.0]
    for score in range(at):
        back = below[max(0, score + SUCCESS)]
        below.append((below[score] + 1 - (1 - failing) * back) / failing)
    return below[at]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(
    ("failing", "seconds"), [(0.05, 3e7), (0.10, 3e7), (0.25, 2 * 86_400), (NOISE, QUIET), (0.5, 300)]
)
def test_false_alarms_are_as_rare_as_is_said(rate: float, failing: float, seconds: float) -> None:
    assert mean_calls_to_alarm(failing, threshold(rate)) / rate >= seconds


@pytest.mark.parametrize("rate", RATES)
def test_what_is_dead_is_known_by_few_calls_and_a_second_of_many(rate: float) -> None:
    assert mean_calls_to_alarm(DEAD, threshold(rate)) <= max(19, 0.1 * rate)
    assert mean_calls_to_alarm(1.0, threshold(rate)) == threshold(rate) <= 17


def test_more_calls_ask_for_more_failures() -> None:
    wanted = [threshold(rate) for rate in RATES]
    assert wanted == sorted(wanted) == [7, 10, 12, 14, 17]


def alarms(failing: float, rate: float, seconds: float, *, latency: float = 1.0, seed: int = 1) -> int:
    """How often a breaker opens before what fails at once or answers after `latency`; each time there is a new one."""
    chance, events, found = random.Random(seed), [], 0
    for number in range(int(rate * seconds)):
        at = 100.0 + number / rate
        failed = chance.random() < failing
        back = at + (0.01 if failed else latency * (0.5 + chance.random()))
        events += [(at, 0, at, failed), (back, 1, at, failed)]
    breaker = CircuitBreaker()
    for now, kind, at, failed in sorted(events):
        if kind == 0:
            breaker.released(at, 1)
        else:
            breaker.settled(Outcome.UNAVAILABLE if failed else Outcome.SUCCEEDED, at, now)
        if breaker.state is BreakerState.OPEN:
            found, breaker = found + 1, CircuitBreaker()
    return found


@pytest.mark.parametrize("rate", [1.0, 10.0, 50.0])
@pytest.mark.parametrize("failing", [0.05, 0.10, 0.25])
def test_noise_opens_no_breaker(failing: float, rate: float) -> None:
    """20,000 calls; by calculation an alarm comes after 1.4 million and more."""
    assert alarms(failing, rate, 20_000 / rate) == 0


@pytest.mark.parametrize("rate", [10.0, 50.0])
def test_half_of_all_calls_failing_opens_it_as_rarely_as_is_calculated(rate: float) -> None:
    calls = 100_000
    expected = calls / mean_calls_to_alarm(0.5, threshold(rate))
    assert expected > 3  # or the test would show nothing
    assert alarms(0.5, rate, calls / rate) <= expected + 3 * math.sqrt(expected)


@pytest.mark.parametrize("latency", [0.1, 1.0, 30.0])
def test_failures_that_come_before_answers_do_not_speak_for_all(latency: float) -> None:
    """At first nothing has come back but failures: as many as fail within the time of a call."""
    assert alarms(0.25, 50.0, 60.0, latency=latency) == 0


def test_what_hangs_until_it_times_out_is_dead_too() -> None:
    evidence = Evidence()
    for number in range(6000):
        evidence.released(number / 10, 1)
    for number in range(threshold(10.0)):
        assert not evidence.failures(10.0)
        evidence.settled(number / 10, failed=True)
    assert evidence.failures(10.0)


def test_calls_from_before_an_outage_do_not_delay_its_discovery() -> None:
    evidence = Evidence()
    evidence.released(10.0, 500)
    for number in range(threshold(10.0)):
        evidence.released(11.0 + number / 10, 1)
        evidence.settled(11.0 + number / 10, failed=True)
    assert evidence.failures(10.0)


def test_calls_that_were_never_made_are_waited_for_no_longer_than_they_have_permits() -> None:
    evidence = Evidence()
    for number in range(20):
        evidence.released(10.0 + number, 2)
        evidence.settled(10.0 + number, failed=True)
    assert not evidence.failures(FEW)
    evidence.keep_undecided(0)
    assert evidence.failures(FEW) == threshold(FEW)


@pytest.mark.parametrize("written", [100.123, 100.124, 100.1234])
def test_calls_of_one_instant_that_are_still_out_count_against_those_that_failed(written: float) -> None:
    evidence = Evidence()
    evidence.released(100.1234, 20)
    for _ in range(10):
        evidence.settled(written, failed=True)
    assert evidence.failures(1.0) == 0
    for _ in range(10):
        evidence.settled(written, failed=True)
    assert evidence.failures(1.0) >= 10


def test_instants_with_fewer_digits_are_the_same() -> None:
    evidence = Evidence()
    for number in range(20):
        evidence.released(10.0 + number + 0.000_04, 1)
        evidence.settled(10.0 + number, failed=True)
    assert evidence.failures(FEW)


@given(
    st.lists(st.tuples(st.sampled_from("xo."), st.integers(0, 30)), max_size=60),
    st.randoms(use_true_random=False),
)
def test_it_is_the_largest_sum_up_to_the_last_failure(
    calls: list[tuple[str, int]], chance: random.Random
) -> None:
    """Whatever the order in which calls come back; `o`: not back yet."""
    evidence, order = Evidence(), sorted(range(len(calls)), key=lambda _: chance.random())
    for number in range(len(calls)):
        evidence.released(float(number), 1)
    for number in order:
        if calls[number][0] != "o":
            evidence.settled(float(number), failed=calls[number][0] == "x")
    failed = [number for number, (letter, _) in enumerate(calls) if letter == "x"]
    sums = [0]
    for letter, _ in reversed(calls[: failed[-1] + 1] if failed else []):
        sums.append(sums[-1] + (1 if letter == "x" else SUCCESS))
    wanted = threshold(FEW)
    reached = next((at for at, total in enumerate(sums) if total >= wanted), len(sums))
    hopeless = next((at for at, total in enumerate(sums) if total <= -wanted), len(sums))
    assert bool(evidence.failures(FEW)) == (reached < hopeless)


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans(), st.booleans()), max_size=80))
def test_whatever_comes_in_whatever_order_calls_stay_in_the_order_of_their_release(
    events: list[tuple[float, bool, bool]],
) -> None:
    evidence = Evidence()
    for at, comes_back, failed in events:
        if comes_back:
            evidence.settled(at, failed=failed)
        else:
            evidence.released(at, 1)
        assert all(one <= other for one, other in pairwise(evidence._at))
        assert len(evidence._at) == len(evidence._scores)
        assert evidence._out == sum(score < SUCCESS for score in evidence._scores) >= 0
        evidence.failures(FEW)


def test_memory_is_bounded() -> None:
    evidence = Evidence()
    for number in range(20_000):
        evidence.released(float(number), 1)
        evidence.settled(float(number), failed=number % 3 == 0)
    assert len(evidence._at) <= 2_100
