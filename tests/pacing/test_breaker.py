"""When calls to an upstream are stopped, and how they come back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pacing.domain.breaker import BreakerRules, BreakerState, CircuitBreaker
from app.tasks.domain.attempt import Outcome

OK, BAD = Outcome.SUCCEEDED, Outcome.UNAVAILABLE
DEAD = "x" * 10  # opens it
CONFIGURED = BreakerRules(share=0.5, in_a_row=5)


def fed(outcomes: str, breaker: CircuitBreaker | None = None, at: float = 100.0) -> CircuitBreaker:
    """One call each tenth of a second: `.` a success, `x` a failure, `r` a refusal."""
    breaker = breaker or CircuitBreaker()
    for number, letter in enumerate(outcomes):
        now = at + number / 10
        breaker.settled({".": OK, "x": BAD, "r": Outcome.RATE_LIMITED}[letter], now, now)
    return breaker


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ("xxxx", BreakerState.CLOSED),
        ("xxxxx", BreakerState.OPEN),
        ("xxxx.xxxx", BreakerState.CLOSED),
        ("x." * 9 + "x", BreakerState.CLOSED),  # 19 calls
        ("x." * 10, BreakerState.OPEN),  # 20 calls, half of them failed
        ("x.." * 20, BreakerState.CLOSED),
        ("r" * 50, BreakerState.CLOSED),
        ("xxrrxx", BreakerState.CLOSED),
        ("xxrrxxx", BreakerState.OPEN),
    ],
)
def test_by_figures_it_opens_at_half_of_twenty_calls_or_five_in_a_row(
    outcomes: str, state: BreakerState
) -> None:
    assert fed(outcomes, CircuitBreaker(CONFIGURED)).state is state


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ("x" * 9, BreakerState.CLOSED),
        ("x" * 10, BreakerState.OPEN),
        ("x" * 9 + "r" * 50, BreakerState.CLOSED),
        ("x" * 5 + "r" * 50 + "x" * 5, BreakerState.OPEN),  # refusals say nothing
        ("xxxx." * 100, BreakerState.CLOSED),  # not dead: four of five fail
        ("x" * 20, BreakerState.OPEN),
        ("." * 100 + "x" * 11, BreakerState.CLOSED),  # at 10 a second it takes 12
        ("." * 100 + "x" * 12, BreakerState.OPEN),
        ("." * 100 + "xxxxxx.xxxxxx", BreakerState.CLOSED),
        ("." * 100 + "xxxxxx.xxxxxxxxxx", BreakerState.OPEN),  # a success among what is dead takes four more
    ],
)
def test_it_opens_on_evidence_that_what_it_stands_before_is_dead(outcomes: str, state: BreakerState) -> None:
    assert fed(outcomes).state is state


@pytest.mark.parametrize(
    ("rules", "state"),
    [
        (BreakerRules(), BreakerState.CLOSED),
        (BreakerRules(share=0.9), BreakerState.CLOSED),
        (BreakerRules(share=0.5), BreakerState.OPEN),
        (BreakerRules(in_a_row=6), BreakerState.CLOSED),
        (BreakerRules(in_a_row=5), BreakerState.OPEN),
    ],
)
def test_each_figure_that_is_configured_is_in_force_and_no_other(
    rules: BreakerRules, state: BreakerState
) -> None:
    assert fed("xxxxx..." * 4, CircuitBreaker(rules)).state is state


@given(st.lists(st.just("r"), min_size=1, max_size=100))
def test_refusals_never_open_it(refusals: list[str]) -> None:
    assert fed("".join(refusals)).state is BreakerState.CLOSED


def test_old_calls_do_not_count() -> None:
    breaker = fed("x." * 8, CircuitBreaker(CONFIGURED))
    assert fed("x." * 8, breaker, at=120.0).state is BreakerState.CLOSED


def test_a_success_of_a_call_sent_before_the_failures_does_not_break_their_row() -> None:
    breaker = CircuitBreaker(CONFIGURED)
    for number in range(5):
        breaker.settled(BAD, 100.0 + number, 101.0 + number)
        breaker.settled(OK, 90.0, 101.5 + number)
    assert breaker.state is BreakerState.OPEN


@pytest.mark.parametrize(("waiting", "seconds"), [(False, 5.0), (True, 2.0)])
def test_it_stays_open_for_five_seconds_and_for_two_while_work_waits(waiting: bool, seconds: float) -> None:
    breaker = fed(DEAD)
    opened = breaker.changed_at
    assert breaker.room() == 0
    breaker.look(opened + seconds - 0.01, waiting=waiting)
    assert breaker.state is BreakerState.OPEN
    breaker.look(opened + seconds, waiting=waiting)
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.room() == 1


def half_open(openings: int = 1) -> tuple[CircuitBreaker, float]:
    breaker = fed(DEAD)
    now = breaker.changed_at
    for _ in range(openings):
        now = breaker.opens_until(waiting=True)
        breaker.look(now, waiting=True)
        if _ < openings - 1:
            breaker.released(now, 1)
            breaker.settled(BAD, now, now)
    return breaker, now


def test_half_open_lets_few_through_and_no_more_until_they_are_back() -> None:
    breaker, now = half_open()
    breaker.released(now, 1)
    assert breaker.room() == 0
    breaker.settled(Outcome.RATE_LIMITED, now, now + 0.1)
    assert breaker.room() == 1


def test_a_probe_that_never_comes_back_does_not_hold_up_the_next_for_ever() -> None:
    breaker, now = half_open()
    breaker.released(now, 1)
    breaker.look(now + 29, waiting=True)
    assert breaker.room() == 0
    breaker.look(now + 31, waiting=True)
    assert breaker.room() == 1


def test_after_a_success_it_is_closed_and_goes_on_at_half_pace_at_first() -> None:
    breaker, now = half_open()
    breaker.released(now, 1)
    breaker.settled(OK, now, now + 1)
    assert breaker.state is BreakerState.CLOSED
    assert [breaker.pace(now + 1 + later) for later in (0, 2, 4, 60)] == [0.5, 0.75, 1.0, 1.0]
    assert breaker.room() is None


def test_repeated_openings_last_longer_up_to_a_bound() -> None:
    lasts = []
    for openings in range(1, 6):
        breaker, now = half_open(openings)
        breaker.released(now, 1)
        breaker.settled(BAD, now, now)
        lasts.append((breaker.opens_until(waiting=False) - now, breaker.opens_until(waiting=True) - now))
    assert [idle for idle, _ in lasts] == [10, 20, 40, 60, 60]
    assert {waiting for _, waiting in lasts} == {4}


def test_calls_sent_before_it_opened_say_nothing_while_it_is_half_open() -> None:
    breaker, now = half_open()
    breaker.settled(OK, now - 3, now)
    breaker.settled(BAD, now - 3, now)
    assert breaker.state is BreakerState.HALF_OPEN


def test_a_long_good_time_makes_it_forget_how_often_it_was_open() -> None:
    breaker, now = half_open(3)
    breaker.released(now, 1)
    breaker.settled(OK, now, now)
    breaker.look(now + 60, waiting=True)
    fed(DEAD, breaker, at=now + 61)
    assert breaker.opens_until(waiting=False) - breaker.changed_at == 5


@given(st.lists(st.tuples(st.sampled_from(".xr"), st.floats(0, 3)), max_size=60), st.booleans())
def test_while_open_nothing_passes_and_while_half_open_one_at_a_time(
    calls: list[tuple[str, float]], waiting: bool
) -> None:
    breaker, now = CircuitBreaker(), 100.0
    for letter, pause in calls:
        now += pause
        breaker.look(now, waiting=waiting)
        room = breaker.room()
        assert (room == 0) if breaker.state is BreakerState.OPEN else (room is None or 0 <= room <= 1)
        if room == 0:
            continue
        breaker.released(now, 1)
        fed(letter, breaker, at=now)
        assert 0.5 <= breaker.pace(now) <= 1


@given(st.floats(0.0, 1e10))
def test_whatever_the_time_a_breaker_that_has_closed_leaves_half_of_the_pace_at_least(now: float) -> None:
    """A leader that begins again asks before it has looked at any clock: at 0."""
    breaker = fed(DEAD)
    breaker.look(110.0, waiting=True)
    breaker.settled(OK, 110.0, 111.0)
    assert breaker.state is BreakerState.CLOSED
    assert 0.5 <= breaker.pace(now) <= 1.0


def test_an_open_breaker_waits_no_longer_when_time_goes_back() -> None:
    breaker = fed(DEAD, at=5000.0)
    breaker.look(1000.0, waiting=True)
    breaker.look(1002.0, waiting=True)
    assert breaker.state is BreakerState.HALF_OPEN
    breaker.released(1002.0, 1)
    breaker.look(500.0, waiting=True)
    assert breaker.room() == 1  # the probe of that other time holds nobody up


def test_half_pace_is_over_in_its_time_when_time_goes_back() -> None:
    breaker = fed(DEAD, at=5000.0)
    breaker.look(5010.0, waiting=True)
    breaker.settled(OK, 5010.0, 5011.0)
    breaker.look(1000.0, waiting=True)
    assert breaker.pace(1000.0) == 0.5
    assert breaker.pace(1004.0) == 1.0
