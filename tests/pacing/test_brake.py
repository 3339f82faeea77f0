"""Which quota each outcome brakes, and for how long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pacing.domain.brake import BrakeDurations, brakes
from app.settings.domain.routing import Route
from app.tasks.domain.attempt import Outcome
from app.upstreams.domain.classify import CallVerdict
from app.upstreams.domain.upstream_error import LimitScope
from tests.attempts import a_permit

NAMED = {
    LimitScope.MODEL: "account:acme:deepseek-flash",
    LimitScope.KEY_MODEL: "key:k1:deepseek-flash",
    LimitScope.KEY: "key:k1:*",
    LimitScope.ACCOUNT: "account:acme:*",
    LimitScope.PROVIDER: "upstream:up:*",
}


@pytest.mark.parametrize(("scope", "quota"), NAMED.items())
def test_a_429_brakes_the_quota_that_it_names(scope: LimitScope, quota: str) -> None:
    (brake,) = brakes(a_permit(), CallVerdict(Outcome.RATE_LIMITED, scope=scope), 0.5)
    assert (brake.quota, brake.seconds) == (quota, 1.0)


def test_a_503_brakes_the_account_for_the_model() -> None:
    (brake,) = brakes(a_permit(), CallVerdict(Outcome.OVERLOADED), 0.0)
    assert (brake.quota, brake.seconds) == ("account:acme:deepseek-flash", 1.0)


BRAKED = {o for o in Outcome if brakes(a_permit(), CallVerdict(o), 0.0)}


def test_nothing_else_brakes() -> None:
    """A refusal of one request (401, 402, 403, 404) is evidence, to be weighed beside that of others."""
    assert {Outcome.RATE_LIMITED, Outcome.OVERLOADED} == BRAKED


def test_every_brake_is_on_a_quota_that_the_route_carries() -> None:
    route = Route("k1", "up", "acme", "deepseek-flash")
    for outcome in BRAKED:
        for scope in LimitScope:
            (brake,) = brakes(a_permit(), CallVerdict(outcome, scope=scope), 0.0)
            assert brake.quota in route.quotas


@given(st.floats(0, 3600), st.floats(0, 1, exclude_max=True))
def test_a_told_pause_is_never_shortened_and_hardly_stretched(told: float, chance: float) -> None:
    (brake,) = brakes(a_permit(), CallVerdict(Outcome.RATE_LIMITED, retry_after_seconds=told), chance)
    assert told <= brake.seconds <= told * 1.1 + 0.05


def test_the_reason_quotes_nothing_of_the_upstream() -> None:
    (brake,) = brakes(
        a_permit(), CallVerdict(Outcome.RATE_LIMITED, "your prompt was X", status_code=429), 0.0
    )
    assert brake.reason == "rate_limited (429)"


def test_a_refusal_that_does_not_say_how_long_rests_for_what_is_configured_and_one_that_does_for_that() -> (
    None
):
    rests = BrakeDurations(rate_limited=0.5, overloaded=3.0)
    for outcome, told, seconds in (
        (Outcome.RATE_LIMITED, None, 0.5),
        (Outcome.OVERLOADED, None, 3.0),
        (Outcome.OVERLOADED, 20.0, 20.0),
    ):
        (brake,) = brakes(a_permit(), CallVerdict(outcome, retry_after_seconds=told), 0.0, rests)
        assert brake.seconds == seconds
