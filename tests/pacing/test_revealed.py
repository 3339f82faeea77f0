"""What headers say of limits, and the pace that follows response times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pacing.domain.estimated_limit import PaceRules, ResponsePace
from app.pacing.domain.rate_controller import CallReport, RateController
from app.pacing.domain.ratelimit_headers import NOTHING, HeaderLimits, revealed
from app.platform.domain.times import read_duration
from app.settings.domain.routing import Route, Topology
from app.tasks.domain.attempt import Outcome


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, NOTHING),
        ({"x-ratelimit-limit-requests": "600"}, HeaderLimits(rpm=600)),
        (
            {"x-ratelimit-limit-requests": "600", "x-ratelimit-limit-tokens": "90000"},
            HeaderLimits(600, 90000),
        ),
        (
            {"ratelimit-policy": '"default";q=100;w=30', "ratelimit": '"default";r=7;t=4'},
            HeaderLimits(rpm=200),
        ),
        (
            {"ratelimit-policy": '"default";q=100;w=60', "ratelimit": '"default";r=0;t=4'},
            HeaderLimits(100, None, 0.6),
        ),
        ({"x-ratelimit-limit-requests": "nonsense"}, NOTHING),
        ({"x-ratelimit-remaining-requests": "0"}, NOTHING),
    ],
)
def test_rate_limit_headers_are_read(headers: dict[str, str], said: HeaderLimits) -> None:
    assert revealed(headers) == said


def test_an_empty_bucket_is_waited_for_until_its_next_unit_and_no_longer_than_it_says() -> None:
    head = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "0"}
    assert revealed({**head, "x-ratelimit-reset-requests": "1m0s"}).empty_for == 1.0
    assert revealed({**head, "x-ratelimit-reset-requests": "200ms"}).empty_for == 0.2


NOW = 1790000000.0  # Mon, 21 Sep 2026 14:13:20 GMT


@pytest.mark.parametrize("family", ["x-ratelimit", "ratelimit"])
@pytest.mark.parametrize(
    ("reset", "seconds"),
    [
        ("30", 30.0),
        ("30.5", 30.5),
        ("30s", 30.0),
        ("0m30s", 30.0),
        ("1790000030", 30.0),
        ("1790000030.25", 30.25),
        ("1790000030000", 30.0),
        ("Mon, 21 Sep 2026 14:13:50 GMT", 30.0),
        ("2026-09-21T14:13:50Z", 30.0),
        ("6m0s", 60.0),  # no quota is closed for longer than a minute at a time
        ("0", 0.0),
        ("1789999000", 0.0),
        ("Mon, 21 Sep 2026 14:00:00 GMT", 0.0),
        ("soon", 0.1),  # of 600 a minute, one is there again by then
        ("", 0.1),
    ],
)
def test_headers_without_an_ending_are_about_requests(family: str, reset: str, seconds: float) -> None:
    headers = {f"{family}-limit": "600", f"{family}-remaining": "0", f"{family}-reset": reset}
    said = revealed(headers, NOW)
    assert (said.rpm, said.tpm) == (600, None)
    assert said.empty_for == pytest.approx(seconds, abs=0.001)
    assert revealed({**headers, f"{family}-remaining": "1"}, NOW).empty_for == 0


def test_plain_headers_alone_and_beside_those_with_an_ending() -> None:
    assert revealed({"x-ratelimit-limit": "600"}) == HeaderLimits(rpm=600)
    assert revealed({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "4"}) == HeaderLimits(empty_for=4)
    assert revealed({"x-ratelimit-limit": "0", "x-ratelimit-remaining": "0"}) == NOTHING
    both = {"x-ratelimit-limit": "7", "x-ratelimit-limit-requests": "600"}
    assert revealed(both) == HeaderLimits(rpm=600)


def test_an_instant_counts_from_the_answers_own_date() -> None:
    headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1790000030"}
    assert revealed({**headers, "date": "Mon, 21 Sep 2026 14:13:40 GMT"}, NOW).empty_for == 10
    assert revealed(headers).empty_for == 0  # nothing to count from


def test_the_pace_of_a_plain_limit_goes_by_the_longest_window_seen() -> None:
    said, paces = None, []
    for reset in ("2", "1", "5", "3", "4.9"):
        said = revealed({"x-ratelimit-limit": "10", "x-ratelimit-reset": reset}).after(said)
        paces.append(said.pace)
    assert paces == [300, 300, 120, 120, 120]
    assert revealed({"x-ratelimit-limit": "5000", "x-ratelimit-reset": "3600"}).pace == 5000
    assert revealed({"x-ratelimit-limit-requests": "600", "x-ratelimit-reset-requests": "1s"}).pace == 600


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_no_plain_header_is_too_strange(limit: str, remaining: str, reset: str, date: str) -> None:
    headers = {
        "x-ratelimit-limit": limit,
        "x-ratelimit-remaining": remaining,
        "x-ratelimit-reset": reset,
        "date": date,
    }
    said = revealed(headers, NOW)
    assert 0 <= said.empty_for <= 60
    assert said.pace is None or said.pace > 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("250ms", 0.25),
        ("1h2m3s", 3723.0),
        ("59.9", 59.9),
        ("", None),
        ("soon", None),
    ],
)
def test_durations_in_headers(text: str, seconds: float | None) -> None:
    assert read_duration(text) == seconds


@given(
    st.dictionaries(
        st.sampled_from(["ratelimit", "ratelimit-policy", "x-ratelimit-limit-requests"]), st.text()
    )
)
def test_no_header_is_too_strange(headers: dict[str, str]) -> None:
    said = revealed(headers)
    assert said.empty_for >= 0


def after(seconds: list[float], rules: PaceRules | None = None) -> float:
    pace = ResponsePace(rules or PaceRules())
    for one in seconds:
        pace.settled(one)
    return pace.level


@pytest.mark.parametrize(
    ("seconds", "level"),
    [
        ([3.0] * 19, 5.0),
        ([3.0] * 20, 4.0),
        ([3.0] * 22, 2.56),
        ([0.2] * 20, 6.25),
        ([0.2] * 21, 7.8125),
        ([1.0] * 20 + [25.0], 4.0),  # the window slides: one call suffices to move the mean
        ([1.0] * 20 + [25.0] + [1.0] * 20, 1.0),
        ([1.0] * 20, 5.0),
        ([9.0] * 400, 1.0),
        ([0.1] * 400, 20.0),
    ],
)
def test_the_pace_follows_the_last_twenty_response_times_between_floor_and_ceiling(
    seconds: list[float], level: float
) -> None:
    assert after(seconds) == pytest.approx(level)


def test_slow_may_be_a_multiple_of_the_models_own_median() -> None:
    rules = PaceRules(slow_times=2.0)
    assert after([4.0] * 20 + [6.0] * 20, rules) == pytest.approx(5.0)
    assert after([4.0] * 20 + [6.0] * 20 + [13.0] * 20, rules) == pytest.approx(5.0 * 0.8**3)


@pytest.mark.parametrize("seconds", [0.05, 3.0])
def test_failures_slow_the_pace_however_fast_they_come(seconds: float) -> None:
    pace = ResponsePace(PaceRules())
    for _ in range(30):
        pace.settled(seconds, failed=True)
    assert pace.level == 1.0


def test_a_few_failures_among_fast_answers_do_not() -> None:
    pace = ResponsePace(PaceRules())
    for number in range(100):
        pace.settled(0.1, failed=number % 20 == 0)
    assert pace.level == 20.0


@pytest.mark.parametrize(
    ("outcome", "slower"),
    [
        (Outcome.TIMED_OUT, True),
        (Outcome.UNAVAILABLE, True),
        (Outcome.OVERLOADED, True),
        (Outcome.RATE_LIMITED, False),  # the quota's own pause
        (Outcome.INVALID_REQUEST, False),  # the request's fault
    ],
)
def test_the_controller_tells_the_pace_what_shows_a_slow_upstream(outcome: Outcome, slower: bool) -> None:
    route = Route("k", "u", "a", "m")
    controller = RateController(Topology({"m": ((route,),)}), breaker=None, pace=PaceRules(), learning=None)
    reports = [CallReport(outcome, "k", "u", "a", "m", n, n + 0.1, 0.1, 1.0) for n in range(25)]
    controller.settled(reports)
    assert (controller._paces["account:a:m"].level < 5.0) == slower
