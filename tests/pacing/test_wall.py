"""An upstream that only refuses: growing pauses, one call after each, and all of the pace after the first success."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pacing.domain.brake import BrakeDurations, RefusalStreak, pause_after
from app.pacing.domain.plan import Release
from app.pacing.domain.rate_controller import CallReport, RateController
from app.settings.domain.routing import ConfiguredQuota, QuotaState, Route, Topology, account_quota
from app.tasks.domain.attempt import Outcome

ACCOUNT = account_quota("a", "m")
ROUTE = Route("k", "u", "a", "m")
QUOTA = ConfiguredQuota(ACCOUNT, rpm=600, concurrency=20)
HOUR = 3600.0


@dataclass
class Upstream:
    """Endless work on one quota, dispatched as the leader does it; calls that are taken last for `seconds`."""

    waiting: int = 20  # that may go at once
    seconds: float = 0.5
    outcome: Outcome = Outcome.RATE_LIMITED
    asked: float | None = None  # Retry-After
    walls: tuple[tuple[float, float], ...] = ((0.0, HOUR),)
    seed: int = 0
    controller: RateController | None = None
    sent: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.judge = self.controller or self.new_governor()
        self.now = self.braked_until = 0.0
        self.flight = 0
        self.level = 1.0
        self.back: list[tuple[float, float, Outcome]] = []

    def new_governor(self) -> RateController:
        return RateController(
            Topology({"m": ((ROUTE,),)}, {ACCOUNT: QUOTA}), breaker=None, chance=self.chance.random
        )

    def run(self, until: float, step: float = 0.1) -> Upstream:
        while self.now < until:
            self.now += step
            self.turn(step)
        return self

    def turn(self, step: float) -> None:
        for closing in self.judge.settled(self.reports()):
            assert closing.quota == ACCOUNT
            self.braked_until = max(self.braked_until, self.now + closing.seconds)
        seen = {ACCOUNT: QuotaState(flight=self.flight, braked_until=self.braked_until)}
        self.judge.look(self.now, seen, ["m"])
        limits = self.judge.limits(self.now, seen)[ACCOUNT]
        state = replace(seen[ACCOUNT], cap=limits.cap)
        state = self.judge.judged(self.now, {ACCOUNT: state}).get(ACCOUNT, state)
        assert limits.requests is not None
        self.level = min(limits.requests.size, self.level + limits.requests.rate * step)
        room = min(
            self.waiting, int(self.level + 1e-9), (state.cap if state.cap is not None else 99) - self.flight
        )
        if self.braked_until <= self.now and room > 0:
            self.release(room, seen)

    def release(self, calls: int, seen: dict[str, QuotaState]) -> None:
        release = Release("t", "q", 3, "m", "c", ROUTE, 10.0, ())
        self.judge.released([release] * calls, seen, self.now)
        self.sent += [self.now] * calls
        self.level -= calls
        self.flight += calls
        for _ in range(calls):
            refuses = any(since <= self.now < until for since, until in self.walls)
            outcome, seconds = (self.outcome, 0.05) if refuses else (Outcome.SUCCEEDED, self.seconds)
            heapq.heappush(self.back, (self.now + seconds, self.now, outcome))

    def reports(self) -> list[CallReport]:
        found = []
        while self.back and self.back[0][0] <= self.now:
            _, released_at, outcome = heapq.heappop(self.back)
            self.flight -= 1
            braked: tuple[str, ...] = ()
            if outcome is not Outcome.SUCCEEDED:
                braked = (ACCOUNT,)
                self.refused.append(self.now)
                rest = 1.0 if self.asked is None else self.asked * 1.05  # as the worker brakes at once
                self.braked_until = max(self.braked_until, self.now + rest)
            at = (released_at, self.now, self.now - released_at)
            found.append(
                CallReport(
                    outcome, "k", "u", "a", "m", *at, 10.0, braked, asked=self.asked if braked else None
                )
            )
        return found

    def rate(self, since: float, until: float) -> float:
        """Calls a second that were sent."""
        return sum(since <= at < until for at in self.sent) / (until - since)


@pytest.mark.parametrize("waiting", [1, 20, 100])
@pytest.mark.parametrize("outcome", [Outcome.RATE_LIMITED, Outcome.OVERLOADED])
def test_an_hour_of_refusals_is_met_by_150_calls_at_most(outcome: Outcome, waiting: int) -> None:
    world = Upstream(waiting, outcome=outcome).run(HOUR)
    assert 100 <= len(world.sent) <= 150
    gaps = [b - a for a, b in pairwise(at for at in world.sent if at > 1.0)]
    assert max(gaps) <= 32.5
    assert all(gap >= 0.9 for gap in gaps)


def test_pauses_double_from_one_second_to_32_and_one_call_goes_after_each() -> None:
    world = Upstream(20).run(200)
    after = sorted(set(world.sent))
    gaps = [b - a for a, b in pairwise(after)]
    for gap, pause in zip(gaps, [1, 2, 4, 8, 16, 32, 32], strict=False):
        assert 0.9 * pause <= gap <= pause + 0.4
    assert all(world.sent.count(at) == 1 for at in after[1:])


@pytest.mark.parametrize("ends", [12.0, 40.0, 333.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_first_call_that_is_taken_brings_back_all_of_the_pace(ends: float, seed: int) -> None:
    world = Upstream(20, walls=((0.0, ends),), seed=seed).run(ends + 60)
    first = next(at for at in world.sent if at >= ends)
    assert first <= ends + 32.5
    assert first <= ends + max(10.0, ends)  # no later than the wall had lasted
    assert world.rate(first + 2, first + 12) >= 0.9 * 10 * 0.95  # 600 a minute, less what the bucket keeps


def test_a_second_wall_begins_with_short_pauses_again() -> None:
    world = Upstream(20, walls=((0.0, 100.0), (200.0, 300.0))).run(230)
    second = sorted({at for at in world.refused if at >= 200.0})
    assert second[1] - second[0] <= 1.6 or second[2] - second[1] <= 1.6


@pytest.mark.parametrize("outcome", [Outcome.RATE_LIMITED, Outcome.OVERLOADED])
@pytest.mark.parametrize("asked", [0.5, 5.0, 60.0])
def test_what_the_upstream_asks_for_is_kept_and_one_call_goes_after_it(
    outcome: Outcome, asked: float
) -> None:
    world = Upstream(20, outcome=outcome, asked=asked).run(300)
    after = sorted(set(world.sent))
    gaps = [b - a for a, b in pairwise(after)][1:]
    assert all(asked <= gap <= asked * 1.1 + 0.3 for gap in gaps)
    assert all(world.sent.count(at) == 1 for at in after[2:])


def test_calls_that_succeed_beside_a_refusal_keep_the_pace_up() -> None:
    """One refusal in a while is met by a pause of a second, as ever."""
    world = Upstream(20, seconds=0.8, walls=tuple((t, t + 0.1) for t in range(10, 100, 10))).run(100)
    assert world.rate(10, 100) >= 0.75 * 10


def test_a_successor_goes_on_where_the_leader_before_it_stopped() -> None:
    world = Upstream(20).run(100)
    assert world.judge.facts()[ACCOUNT]["pauses"] >= 5
    successor = world.new_governor()
    successor.recall(world.judge.facts())
    world.judge, world.braked_until, begun = successor, 0.0, world.now  # Redis is lost too
    world.run(begun + 70)
    assert len([at for at in world.sent if at > begun]) <= 4


def test_a_quota_without_a_limit_is_recalled_without_learning_one() -> None:
    judge = Upstream().judge
    name = "key:k:*"
    judge.recall({name: {"pauses": 3}, "no:such": {"pauses": 2}})
    assert list(judge.streaks) == [name]
    assert name not in judge.estimators


def test_the_end_of_a_wall_is_kept_too() -> None:
    world = Upstream(20, walls=((0.0, 20.0),)).run(60)
    assert world.judge.facts()[ACCOUNT]["pauses"] == 0


def test_first_and_longest_pause_are_configured() -> None:
    rests = BrakeDurations(rate_limited=2.0, overloaded=3.0, longest=10.0)
    topology = Topology({"m": ((ROUTE,),)}, {ACCOUNT: QUOTA})
    judge, at, found = RateController(topology, breaker=None, rests=rests), 0.0, []
    for _ in range(5):
        at += 100
        report = CallReport(Outcome.RATE_LIMITED, "k", "u", "a", "m", at, at + 1, 1.0, 1.0, (ACCOUNT,))
        found += [closing.seconds for closing in judge.settled([report])]
    assert found == [4.0, 8.0, 10.0, 10.0]


def test_without_learning_pauses_grow_all_the_same() -> None:
    judge = RateController(Topology({"m": ((ROUTE,),)}, {}), breaker=None, learning=None)
    for at in (0.0, 10.0, 20.0):
        report = CallReport(Outcome.RATE_LIMITED, "k", "u", "a", "m", at, at + 1, 1.0, 1.0, (ACCOUNT,))
        closings = judge.settled([report])
    assert closings[0].seconds == 4.0


def test_a_call_that_was_sent_before_the_wall_makes_pauses_short_again_but_opens_nothing() -> None:
    streak = RefusalStreak()
    for at in (10.0, 20.0, 30.0):
        streak.refused(at, at + 1, 1.0, 32.0, 0.0)
    streak.succeeded(5.0)
    assert (streak.stands, streak.pauses) == (True, 1)
    streak.succeeded(15.0)
    assert not streak.stands


def test_a_probe_that_is_lost_does_not_stop_the_quota() -> None:
    streak = RefusalStreak()
    streak.refused(10.0, 11.0, 1.0, 32.0, 0.0)
    streak.released(12.0)
    assert streak.room(12.1, flight=1) == 0
    assert streak.room(12.1, flight=0) == 1
    assert streak.room(13.1, flight=1) == 1  # it stays out for longer than the pause


def test_gate_time_that_goes_back_does_not_keep_refusals_from_counting() -> None:
    streak = RefusalStreak()
    streak.refused(1e6, 1e6 + 1, 1.0, 32.0, 0.0)
    streak.look(50.0)
    assert streak.refused(60.0, 61.0, 1.0, 32.0, 0.0) == 2.0


@given(
    refusals=st.integers(1, 10_000),
    base=st.floats(0.01, 60),
    longest=st.floats(0.01, 3600),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_every_pause_lies_between_its_bounds(
    refusals: int, base: float, longest: float, chance: float
) -> None:
    pause = pause_after(refusals, base, longest, chance)
    assert 0.9 * base <= pause <= max(base, longest)
