"""What is configured stands against lone refusals, and is back in full soon after refusals have ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.pacing.domain.limit_estimator import CallSample, new_estimator
from app.pacing.domain.rate_controller import CallReport, RateController
from app.settings.domain.routing import (
    ANY,
    ConfiguredQuota,
    QuotaLimits,
    QuotaState,
    Route,
    Topology,
    account_quota,
)
from app.tasks.domain.attempt import Outcome

ACCOUNT = account_quota("a", "m")
ROUTE = Route("k", "u", "a", "m")


@dataclass(frozen=True)
class Refusal:
    """One refusal: so long after the one before, amid so many calls that succeed."""

    gap: float
    successes: int
    outcome: Literal[Outcome.RATE_LIMITED, Outcome.OVERLOADED]


REFUSALS = st.lists(
    st.builds(
        Refusal,
        st.floats(0.5, 90.0),
        st.integers(0, 30),
        st.sampled_from([Outcome.RATE_LIMITED, Outcome.OVERLOADED]),
    ),
    min_size=1,
    max_size=12,
)
QUOTAS = st.builds(
    ConfiguredQuota,
    st.sampled_from([ACCOUNT, account_quota("a", ANY)]),
    rpm=st.none() | st.floats(1, 60_000),
    tpm=st.none() | st.floats(1_000, 1e8),
    concurrency=st.none() | st.integers(1, 2_000),
).filter(lambda quota: quota.rpm or quota.tpm or quota.concurrency)


class OneKey:
    """A controller of one key, called one call at a time."""

    def __init__(self, *quotas: ConfiguredQuota) -> None:
        topology = Topology({"m": ((ROUTE,),)}, {quota.id: quota for quota in quotas})
        self.controller, self.now = RateController(topology, breaker=None), 1000.0
        self.names = topology.quota_ids

    def wait(self, seconds: float, flight: int = 0, *, wanted: bool = False) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + 0.25)
            self.look(flight, wanted=wanted)

    def look(self, flight: int = 0, *, wanted: bool = False) -> None:
        states = dict.fromkeys(self.names, QuotaState(flight=flight))
        self.controller.look(self.now, states, ["m"] if wanted else [])

    def call(self, outcome: Outcome, seconds: float = 0.1) -> None:
        released_at = self.now
        for name in ROUTE.quotas:
            if name in self.controller.estimators:
                self.controller.estimators[name].released(released_at, 1, 10.0, 1)
        self.now += seconds
        self.look(1)
        braked = () if outcome is Outcome.SUCCEEDED else (ACCOUNT,)
        report = CallReport(outcome, "k", "u", "a", "m", released_at, self.now, seconds, 10.0, braked)
        self.controller.settled([report])

    def limits(self) -> dict[str, QuotaLimits]:
        return self.controller.limits(self.now, dict.fromkeys(self.names, QuotaState()))


def least(found: dict[str, QuotaLimits], quota: ConfiguredQuota) -> dict[str, float]:
    """The least that any quota allows of what is configured, as a part of it."""
    rates = {
        "rpm": [one.requests.rate * 60 for one in found.values() if one.requests],
        "tpm": [one.tokens.rate * 60 for one in found.values() if one.tokens],
        "concurrency": [float(one.cap) for one in found.values() if one.cap is not None],
    }
    configured = {"rpm": quota.rpm, "tpm": quota.tpm, "concurrency": quota.concurrency}
    return {name: min(rates[name]) / value for name, value in configured.items() if value is not None}


def refused(world: OneKey, refusals: Sequence[Refusal]) -> None:
    for refusal in refusals:
        step = refusal.gap / (refusal.successes + 1)
        for _ in range(refusal.successes):
            world.wait(max(0.0, step - 0.1))
            world.call(Outcome.SUCCEEDED)
        world.wait(max(0.0, step - 0.1))
        world.call(refusal.outcome)


@settings(max_examples=150, deadline=None)
@given(quota=QUOTAS, refusals=REFUSALS, retried=st.booleans())
@example(
    quota=ConfiguredQuota(ACCOUNT, rpm=600, concurrency=20),
    refusals=[Refusal(1.0, 0, Outcome.RATE_LIMITED)],
    retried=True,
)
@example(
    quota=ConfiguredQuota(ACCOUNT, rpm=600, concurrency=20),
    refusals=[Refusal(1.0, 0, Outcome.OVERLOADED)],
    retried=True,
)
@example(
    quota=ConfiguredQuota(ACCOUNT, rpm=600, concurrency=20),
    refusals=[Refusal(2.0, 1, Outcome.RATE_LIMITED)] * 12,
    retried=True,
)
def test_ten_seconds_after_lone_refusals_nine_tenths_of_what_is_configured_are_in_force(
    quota: ConfiguredQuota, refusals: list[Refusal], retried: bool
) -> None:
    world = OneKey(quota)
    refused(world, refusals)
    if retried:
        world.wait(1.5)
        world.call(Outcome.SUCCEEDED)
    world.wait(10.0 - (1.6 if retried else 0.0))
    enough = 0.85 if (quota.rpm or 1e9) < 2 else 0.9  # the bucket of 1 a minute is itself below
    assert all(part >= enough for part in least(world.limits(), quota).values())


def test_one_refusal_of_an_idle_key_costs_no_pace_at_all() -> None:
    estimator = new_estimator(("pace", "calls"))
    estimator.look(100.0, 0, wanted=True)
    estimator.released(100.0, 1, 10.0, 1)
    estimator.settled(CallSample("refused", 100.0, 0.5, 10.0), 100.5)
    assert all(
        figure.is_free for figure in estimator.figures.values() if figure is not estimator.figures["tokens"]
    )


def test_one_refusal_of_one_call_leaves_learned_figures_at_half_at_least() -> None:
    estimator = new_estimator()
    estimator.look(100.0, 0, wanted=True)
    estimator.released(100.0, 1, 10.0, 1)
    estimator.settled(CallSample("refused", 100.0, 0.5, 10.0), 100.5)
    assert estimator.cap is not None
    assert estimator.cap >= 8
    assert estimator.requests is not None
    assert estimator.requests.rate >= 8


def test_many_refusals_amid_many_calls_lower_what_is_configured_to_what_is_taken() -> None:
    estimator = new_estimator(("pace",))
    for tenth in range(200):
        at = 100 + tenth / 10
        estimator.look(at, 1, wanted=True)
        estimator.released(at, 1, 10.0, 1)
        kind: Literal["success", "refused"] = "success" if tenth % 4 == 0 else "refused"
        estimator.settled(CallSample(kind, at, 0.05, 10.0, None if kind == "success" else "pace"), at + 0.05)
    assert estimator.requests is not None
    assert 2.0 <= estimator.requests.rate <= 5.0  # 10 a second were tried, 2.5 taken


@pytest.mark.parametrize("outcome", ["refused", "overloaded"])
def test_what_was_lowered_is_in_force_again_when_calls_pause(
    outcome: Literal["refused", "overloaded"],
) -> None:
    estimator = new_estimator(("calls", "pace"))
    for n in range(40):
        at = 100 + n / 20
        estimator.look(at, 20, wanted=True)
        estimator.released(at, 1, 10.0, 20)
        estimator.settled(CallSample("success" if n % 2 else outcome, at, 0.05, 10.0), at + 0.05)
    assert estimator.cap is not None or estimator.requests is not None
    estimator.released(110.0, 1, 10.0, 1)
    assert (estimator.cap, estimator.requests) == (None, None)
