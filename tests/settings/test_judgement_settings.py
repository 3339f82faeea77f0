"""[learning], [breaker] and [pace]: what is configured is what the dispatcher goes by."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.pacing.build_controllers import breaker_rules, make_rate_controller, rests
from app.pacing.domain.breaker import BreakerState
from app.pacing.domain.rate_controller import CallReport, RateController
from app.settings import ConfigError, Settings, load_settings
from app.settings.domain.routing import QuotaState
from app.settings.topology import build_topology
from app.tasks.domain.attempt import Outcome

BASE = """\
[[upstream]]
name = "u"
base_url = "https://u.example/v1"
[[upstream]]
name = "other"
base_url = "https://other.example/v1"
[[key]]
name = "k"
upstream = "u"
secret = "env:K"
[[key]]
name = "o"
upstream = "other"
secret = "env:O"
[[model]]
name = "m"
tiers = [["k", "o"]]
"""
ACCOUNT, OTHER, UPSTREAM = "account:k:m", "account:o:m", "upstream:u:m"


def settings(tmp_path: Path, more: str) -> Settings:
    file = tmp_path / "penstock.toml"
    file.write_text(BASE + more, encoding="utf-8")
    return load_settings(file, {})


def controller(tmp_path: Path, more: str) -> RateController:
    told = settings(tmp_path, more)
    return make_rate_controller(build_topology(told), told)


def settle(
    judge: RateController, calls: int, outcome: Outcome = Outcome.SUCCEEDED, seconds: float = 1.0
) -> None:
    report = CallReport(outcome, "k", "u", "k", "m", 10.0, 10.0 + seconds, seconds, 100.0, (ACCOUNT,))
    judge.settled([report] * calls)


def rate(judge: RateController, quota: str = ACCOUNT) -> float | None:
    requests = judge.limits(20.0, {quota: QuotaState()})[quota].requests
    return None if requests is None else requests.rate


def test_without_a_pace_of_their_own_response_times_change_nothing(tmp_path: Path) -> None:
    judge = controller(tmp_path, "[learning]\nenabled = false\n")
    settle(judge, 20, seconds=9.0)
    assert rate(judge) is None


def test_the_pace_starts_at_5_is_multiplied_after_20_calls_and_stays_between_1_and_20(tmp_path: Path) -> None:
    judge = controller(tmp_path, "[learning]\nenabled = false\n[pace]\nenabled = true\n")
    assert rate(judge) == 5
    settle(judge, 19, seconds=2.1)
    assert rate(judge) == 5
    settle(judge, 1, seconds=2.1)
    assert rate(judge) == 4
    settle(judge, 400, seconds=2.1)
    assert rate(judge) == 1
    settle(judge, 18, seconds=0.4)  # of the last 20 calls, two were slow: their mean is not below a half yet
    assert rate(judge) == 1
    settle(judge, 2, seconds=0.4)  # now it is, and each call is a step
    assert rate(judge) == 1.25**2
    settle(judge, 40, seconds=1.0)
    between = rate(judge)
    settle(judge, 20, seconds=1.0)  # neither slow nor fast
    assert rate(judge) == between
    settle(judge, 600, seconds=0.4)
    assert rate(judge) == 20


def test_every_figure_of_the_pace_can_be_told(tmp_path: Path) -> None:
    told = "slow = 4\nfast = 3\ncalls = 2\ndown = 0.5\nup = 2.0\nstart = 8\nfloor = 3\nceiling = 12"
    judge = controller(tmp_path, f"[learning]\nenabled = false\n[pace]\nenabled = true\n{told}\n")
    seen = [rate(judge)]
    for seconds in (5.0, 5.0, 2.0, 2.0, 2.0):
        settle(judge, 2, seconds=seconds)
        seen.append(rate(judge))
    assert seen == [8, 4, 3, 6, 12, 12]


def test_slow_may_be_a_multiple_of_the_models_own_median(tmp_path: Path) -> None:
    judge = controller(tmp_path, "[learning]\nenabled = false\n[pace]\nenabled = true\nslow_times = 1.5\n")
    settle(judge, 20, seconds=1.9)  # by this the median is known
    settle(judge, 20, seconds=2.8)
    assert rate(judge) == 5
    settle(judge, 20, seconds=3.9)  # the median is 2.8 by now, and 3.9 is less than 1.5 times that
    assert rate(judge) == 5
    settle(judge, 20, seconds=6.0)
    assert rate(judge) < 5


def test_the_pace_may_be_for_some_upstreams_alone(tmp_path: Path) -> None:
    more = '[learning]\nenabled = false\n[pace]\nenabled = true\nupstreams = ["u"]\n'
    judge = controller(tmp_path, more)
    assert (rate(judge), rate(judge, OTHER)) == (5, None)


def test_learning_starts_where_it_is_told_to(tmp_path: Path) -> None:
    judge = controller(tmp_path, "[learning]\ncalls_at_once = 7\ncalls_a_second = 3\n")
    limits = judge.limits(0.0, {})[ACCOUNT]
    assert (limits.cap, limits.requests.rate if limits.requests else None) == (7, 3)


def test_without_learning_a_refusal_sets_no_limit(tmp_path: Path) -> None:
    judge = controller(tmp_path, "[learning]\nenabled = false\n")
    settle(judge, 5, Outcome.RATE_LIMITED)
    judge.recall({ACCOUNT: {"figures": {"calls": {"level": 5.0}}}})
    assert judge.limits(20.0, {})[ACCOUNT].cap is None
    assert judge.facts() == {}


def test_the_breaker_opens_when_it_is_told_to(tmp_path: Path) -> None:
    judge = controller(
        tmp_path, "[breaker]\nin_a_row = 3\nopen_for = 9\nopen_for_waiting = 7\nlongest_waiting = 8\n"
    )
    settle(judge, 2, Outcome.UNAVAILABLE)
    assert judge.states()[UPSTREAM] is BreakerState.CLOSED
    settle(judge, 1, Outcome.UNAVAILABLE)
    assert judge.states()[UPSTREAM] is BreakerState.OPEN
    breaker = judge.breakers[UPSTREAM]
    assert breaker.opens_until(waiting=True) - breaker.changed_at == 7
    assert breaker.opens_until(waiting=False) - breaker.changed_at == 9


@pytest.mark.parametrize(
    ("figures", "row", "share", "times"),
    [
        ("", None, None, (5, 2, 60, 4, 4)),
        ("in_a_row = 5", 5, None, (5, 2, 60, 4, 4)),
        ("share = 0.7", None, 0.7, (5, 2, 60, 4, 4)),
        ("calls = 50", None, 0.5, (5, 2, 60, 4, 4)),
        ('preset = "hystrix"', None, 0.5, (5, 5, 5, 5, 0.001)),
        ('preset = "hystrix"\nshare = 0.6\nopen_for = 7', None, 0.6, (7, 7, 7, 7, 0.001)),
        ('preset = "hystrix"\nlongest = 30', None, 0.5, (5, 5, 30, 5, 0.001)),
    ],
)
def test_figures_and_presets_are_in_force_as_configured(
    tmp_path: Path, figures: str, row: int | None, share: float | None, times: tuple[float, ...]
) -> None:
    rules = breaker_rules(settings(tmp_path, f"[breaker]\n{figures}\n"))
    assert rules is not None
    assert (rules.in_a_row, rules.share) == (row, share)
    assert rules.calls == (50 if figures == "calls = 50" else 20)
    assert times == (
        rules.open_for,
        rules.open_for_waiting,
        rules.longest,
        rules.longest_waiting,
        rules.half_pace_for,
    )


def test_the_hystrix_preset_opens_at_half_of_twenty_calls(tmp_path: Path) -> None:
    judge = controller(tmp_path, '[breaker]\npreset = "hystrix"\n')
    settle(judge, 10)
    settle(judge, 9, Outcome.UNAVAILABLE)
    assert judge.states()[UPSTREAM] is BreakerState.CLOSED
    settle(judge, 1, Outcome.UNAVAILABLE)
    assert judge.states()[UPSTREAM] is BreakerState.OPEN


def test_without_breakers_failures_close_nothing(tmp_path: Path) -> None:
    judge = controller(tmp_path, "[breaker]\nenabled = false\n")
    settle(judge, 50, Outcome.UNAVAILABLE)
    assert judge.states() == {}
    assert judge.limits(20.0, {})[UPSTREAM].cap is None


def test_pauses_after_refusals_can_be_told(tmp_path: Path) -> None:
    told = rests(settings(tmp_path, "[learning]\npause = 0.5\n[breaker]\npause = 4\n"))
    assert (told.rate_limited, told.overloaded) == (0.5, 4.0)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("[pace]\nfloor = 6", "floor <= start <= ceiling"),
        ("[pace]\nfast = 2", "the same calls for fast and slow"),
        ("[pace]\nup = 1.0", "up:"),
        ("[pace]\nslow_times = 1", "slow_times:"),
        ('[pace]\nupstreams = ["v"]', 'no [[upstream]] named "v"'),
        ("[breaker]\nopen_for = 1", "lower open_for_waiting"),
        ("[breaker]\nopen_for = 70", "raise longest"),
        ("[breaker]\nshare = 50", "share:"),
        ("[learning]\npause = 0", "pause:"),
        ("[learning]\ncalls_at_once = 0", "calls_at_once:"),
    ],
)
def test_figures_that_cannot_be_are_refused(tmp_path: Path, more: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, more + "\n")
    assert said in str(caught.value)
    assert caught.value.line is not None
