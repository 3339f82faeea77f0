"""When a callback is tried, and what an answer means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.callbacks.callback_http import AtCapacity, Go, Host, HostLimits, Paused, admit, arrive
from app.callbacks.domain.callback import SCHEDULE, DeliveryReply, HostHealth, judge, wait_seconds
from app.tasks.domain.task import CallbackState

NOW = 1_800_000_000.0
TRIES = st.integers(1, 12)
CHANCE = st.floats(0, 1, exclude_max=True)
CODES = st.one_of(st.none(), st.integers(100, 599))


def test_the_schedule_is_the_reference_schedule() -> None:
    hours = [hours * 3600 for hours in (2, 5, 10, 14, 20, 24)]
    assert list(SCHEDULE) == [0, 5, 300, 1800, *hours]


@given(st.integers(1, 9), CHANCE)
def test_each_wait_is_within_a_tenth_of_the_schedule(tries: int, chance: float) -> None:
    assert SCHEDULE[tries] * 0.9 <= wait_seconds(tries, chance) <= SCHEDULE[tries] * 1.1


@given(CODES, TRIES, CHANCE)
def test_only_2xx_is_delivered(code: int | None, tries: int, chance: float) -> None:
    verdict = judge(DeliveryReply(code), tries=tries, now=NOW, chance=chance)
    assert (verdict.state is CallbackState.DELIVERED) == (code is not None and 200 <= code < 300)
    assert (verdict.error is None) == (verdict.state is CallbackState.DELIVERED)


@given(CODES, st.integers(1, 9), CHANCE)
def test_what_failed_is_tried_again_by_the_schedule_and_never_earlier(
    code: int | None, tries: int, chance: float
) -> None:
    verdict = judge(DeliveryReply(code), tries=tries, now=NOW, chance=chance)
    if verdict.state is CallbackState.PENDING:
        assert verdict.next_at is not None
        assert verdict.next_at >= NOW + SCHEDULE[tries] * 0.9
    else:
        assert code is not None
        assert code == 410 or 200 <= code < 300


@given(CODES, CHANCE)
def test_after_the_tenth_try_it_is_a_dead_letter(code: int | None, chance: float) -> None:
    verdict = judge(DeliveryReply(code), tries=len(SCHEDULE), now=NOW, chance=chance)
    assert verdict.state in (CallbackState.DELIVERED, CallbackState.FAILED)
    if verdict.state is CallbackState.FAILED and code != 410:
        assert "10 tries" in str(verdict.error)


@pytest.mark.parametrize(
    ("code", "word"),
    [(301, "redirects"), (307, "redirects"), (404, "404"), (500, "500"), (None, "refused"), (103, "103")],
)
def test_a_failure_says_what_it_was(code: int | None, word: str) -> None:
    verdict = judge(DeliveryReply(code, error="connection refused"), tries=1, now=NOW, chance=0.5)
    assert verdict.state is CallbackState.PENDING
    assert word in str(verdict.error)
    assert verdict.next_at == pytest.approx(NOW + 5)


def test_410_stops_at_once_with_its_reason() -> None:
    verdict = judge(DeliveryReply(410), tries=1, now=NOW, chance=0.5)
    assert verdict.state is CallbackState.FAILED
    assert "410" in str(verdict.error)


def test_a_url_that_can_never_be_sent_stops_at_once() -> None:
    answer = DeliveryReply(error="port 22 is refused", hopeless=True, sent=False)
    verdict = judge(answer, tries=1, now=NOW, chance=0.5)
    assert (verdict.state, verdict.health) == (CallbackState.FAILED, HostHealth.UNKNOWN)


@pytest.mark.parametrize("code", [429, 502, 504])
def test_those_who_ask_us_to_slow_down_get_a_minute_and_their_host_too(code: int) -> None:
    verdict = judge(DeliveryReply(code), tries=1, now=NOW, chance=0.0)
    assert verdict.next_at == NOW + 60
    assert verdict.pause_seconds == 60


@pytest.mark.parametrize(
    ("code", "value", "seconds"),
    [
        (429, "120", 120),
        (503, "120", 120),
        (500, "3600", 3600),
        (429, "Fri, 15 Jan 2027 08:02:00 GMT", 120),
        (429, "999999999", 86400),
    ],
)
def test_retry_after_is_kept(code: int, value: str, seconds: float) -> None:
    verdict = judge(DeliveryReply(code, {"retry-after": value}), tries=1, now=NOW, chance=0.0)
    assert verdict.next_at == NOW + seconds


@pytest.mark.parametrize("value", ["soon", "", "-5", "nan", "1e999", "Fri, 99 Foo 2027"])
def test_an_unreadable_retry_after_changes_nothing(value: str) -> None:
    verdict = judge(DeliveryReply(500, {"retry-after": value}), tries=1, now=NOW, chance=0.5)
    assert verdict.next_at == pytest.approx(NOW + 5)


def test_a_retry_after_shorter_than_the_schedule_does_not_hurry_it() -> None:
    verdict = judge(DeliveryReply(503, {"retry-after": "1"}), tries=3, now=NOW, chance=0.5)
    assert verdict.next_at == pytest.approx(NOW + 1800)


def test_one_answer_does_not_hold_a_host_for_longer_than_five_minutes() -> None:
    verdict = judge(DeliveryReply(429, {"retry-after": "7200"}), tries=1, now=NOW, chance=0.0)
    assert verdict.pause_seconds == 300


LIMITS = HostLimits(at_once=3, failures=2, pause_seconds=30)


def _go(host: Host, now: float = 0.0) -> Host:
    decision = admit(host, LIMITS, now)
    assert isinstance(decision, Go)
    return decision.host


def test_a_host_has_a_bounded_number_in_the_air() -> None:
    host = _go(_go(_go(Host())))
    assert isinstance(admit(host, LIMITS, 0.0), AtCapacity)
    assert isinstance(admit(arrive(host, LIMITS, HostHealth.GOOD, 0.0), LIMITS, 0.0), Go)


def test_failures_in_a_row_pause_a_host_and_then_let_one_through_at_a_time() -> None:
    host = _go(_go(_go(Host())))
    for _ in range(3):
        host = arrive(host, LIMITS, HostHealth.BAD, 100.0)
    assert admit(host, LIMITS, 110.0) == Paused(20.0)
    probing = _go(host, 130.0)
    assert isinstance(admit(probing, LIMITS, 130.0), AtCapacity)
    assert isinstance(admit(arrive(probing, LIMITS, HostHealth.BAD, 131.0), LIMITS, 132.0), Paused)
    back = arrive(probing, LIMITS, HostHealth.GOOD, 131.0)
    assert isinstance(admit(_go(_go(back, 131.0), 131.0), LIMITS, 131.0), Go)


def test_a_success_in_between_keeps_a_host_open() -> None:
    host = Host()
    for health in (HostHealth.BAD, HostHealth.GOOD, HostHealth.BAD, HostHealth.GOOD, HostHealth.BAD):
        host = arrive(_go(host), LIMITS, health, 0.0)
    assert isinstance(admit(host, LIMITS, 0.0), Go)


def test_a_pause_that_was_asked_for_holds_without_any_failure() -> None:
    host = arrive(_go(Host()), LIMITS, HostHealth.GOOD, 0.0, pause_seconds=60.0)
    assert admit(host, LIMITS, 10.0) == Paused(50.0)


@given(st.lists(st.tuples(st.sampled_from(list(HostHealth)), st.booleans()), max_size=60))
def test_whatever_happens_no_host_has_more_in_the_air_than_allowed(
    steps: list[tuple[HostHealth, bool]],
) -> None:
    host, now = Host(), 0.0
    for health, start in steps:
        now += 7.0
        if start and isinstance(decision := admit(host, LIMITS, now), Go):
            host = decision.host
        elif host.in_flight:
            host = arrive(host, LIMITS, health, now)
        assert 0 <= host.in_flight <= LIMITS.at_once
