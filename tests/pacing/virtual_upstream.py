"""A estimator against an upstream with hidden limits, on a virtual clock.

The upstream's limits are the simulator's, which share nothing with what is tested. Calls take a round trip, their
latency, and a moment until they are settled; releases are what an ideal gate would let through.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.pacing.domain.breaker import BreakerState, CircuitBreaker
from app.pacing.domain.limit_estimator import CallSample, LimitEstimator, new_estimator
from app.pacing.domain.rate_controller import tighter
from app.settings.domain.routing import QuotaLimits
from app.tasks.domain.attempt import Outcome
from simulator.latency import Latency
from simulator.limits import Gate, Limit, Refusal, SimulatedCaller

CALLER = SimulatedCaller("key", "account", "model")
NAMES = {"concurrency": "calls", "rpm": "pace", "tpm": "tokens"}
ROUND_TRIP, SETTLING = 0.02, 0.03  # seconds; the latter at most
_NOTHING_TOLD = QuotaLimits()
SECOND = Latency("lognormal", 1.0, 0.5)


@dataclass
class World:
    """Endless work, one account. `named`: refusals say which limit they are about."""

    cap: int | None = None
    rate: float | None = None
    latency: Latency = SECOND
    named: bool = True
    retry_after: bool = True
    burst: float = 2.0
    storm: tuple[float, float] = (0.0, 0.0)
    refusing: Sequence[tuple[float, float]] = ()  # spans in which all is refused by 429, whatever is sent
    told: QuotaLimits = _NOTHING_TOLD  # ceilings, as the pacing store keeps them
    seed: int = 0
    estimator: LimitEstimator = field(default_factory=new_estimator)
    breaker: CircuitBreaker | None = None

    def __post_init__(self) -> None:
        self.gate = Gate((self._limit(),), 0.0)
        self.chance = random.Random(self.seed)
        self.events: list[tuple[float, int, str, tuple[object, ...]]] = []
        self.count = self.flight = 0
        self.level = self.looked_at = self.braked_until = 0.0
        self.brake_is_soft = False
        self.admitted: list[float] = []
        self.refused: list[float] = []
        self.wasted: list[float] = []

    @property
    def capacity(self) -> float:
        """Calls a second that the upstream can take."""
        return min(self.cap / self.latency.mean if self.cap else math.inf, self.rate or math.inf)

    def _limit(self) -> Limit:
        rpm = None if self.rate is None else self.rate * 60
        return Limit(account="*", rpm=rpm, concurrency=self.cap, burst_seconds=self.burst)

    def change(self, cap: int | None) -> World:
        """Other limits from now on."""
        self.cap = cap
        self.gate.replace((self._limit(),), self.looked_at)
        return self

    def run(self, until: float) -> World:
        """Go on until that instant."""
        if not self.events:
            self._at(0.0, "_look")
        while self.events and self.events[0][0] < until:
            now, _, name, arguments = heapq.heappop(self.events)
            getattr(self, name)(now, *arguments)
        return self

    def used(self, since: float, until: float) -> float:
        """The part of its capacity that was used."""
        return sum(since <= at < until for at in self.admitted) / (until - since) / self.capacity

    def refusals(self, since: float, until: float) -> float:
        """The part of all calls that was refused."""
        refused = sum(since <= at < until for at in self.refused)
        return refused / max(1, refused + sum(since <= at < until for at in self.admitted))

    def _at(self, when: float, name: str, *arguments: object) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, name, arguments))

    # -- our side

    @property
    def _allowed(self) -> QuotaLimits:
        return tighter(
            self.told, QuotaLimits(self.estimator.requests, self.estimator.tokens, self.estimator.cap)
        )

    def _look(self, now: float) -> None:
        self._release(now)
        bucket, pause = self._allowed.requests, 0.25
        if self.braked_until > now:
            pause = min(pause, self.braked_until - now)
        elif bucket and self.level < 1:
            pause = min(pause, (1 - self.level) / bucket.rate)
        self._at(now + max(0.001, pause), "_look")

    def _release(self, now: float) -> None:
        part, room = 1.0, math.inf
        if self.breaker is not None:
            self.breaker.look(now, waiting=True)
            part, found = self.breaker.pace(now), self.breaker.room()
            room = math.inf if found is None else found
        cap, bucket = self._allowed.cap, self._allowed.requests
        if cap is not None:
            room = min(room, max(1, int(cap * part)) - self.flight)
        if bucket is not None:
            passed = now - self.looked_at
            self.level = min(max(1.0, bucket.size * part), self.level + passed * bucket.rate * part)
            room = min(room, int(self.level + 1e-9))
        self.looked_at = now
        braked = self.braked_until > now
        calls = 0 if braked else int(max(0, min(room, 5000)))
        self._send(now, calls)
        self.level -= calls if bucket is not None else 0
        closed = self.breaker is None or self.breaker.state is BreakerState.CLOSED
        self.estimator.look(now, self.flight, wanted=closed and not braked)

    def _send(self, now: float, calls: int) -> None:
        self.flight += calls
        for _ in range(calls):
            self._at(now + ROUND_TRIP / 2 * (0.5 + self.chance.random()), "_arrive", now)
        if calls:
            self.estimator.released(now, calls, 100.0 * calls, self.flight)
            if self.breaker is not None:
                self.breaker.released(now, calls)

    def _settle(
        self, now: float, released_at: float, outcome: Outcome, refusal: Refusal | None = None
    ) -> None:
        self.flight -= 1
        if self.breaker is not None:
            self.breaker.settled(outcome, released_at, now)
        if outcome is Outcome.SUCCEEDED:
            self.estimator.settled(CallSample("success", released_at, now - released_at), now)
            if self.brake_is_soft:
                self.braked_until = min(now, self.braked_until)
            self._release(now)
            return
        self._brake(now, refusal)
        if refusal is not None:
            name = NAMES[refusal.reason] if self.named else None
            self.estimator.settled(CallSample("refused", released_at, tokens=100, named=name), now)  # type: ignore[arg-type]
        else:
            self.estimator.settled(CallSample("overloaded", released_at), now)

    def _brake(self, now: float, refusal: Refusal | None) -> None:
        self.brake_is_soft = refusal is None or not self.retry_after
        pause = 1.0
        if refusal is not None and self.retry_after:
            pause = max(1, math.ceil(refusal.retry_after_seconds)) * (1 + self.chance.random() / 10)
        self.braked_until = max(self.braked_until, now + pause)

    # -- the upstream

    def _arrive(self, now: float, released_at: float) -> None:
        if any(since <= now < until for since, until in self.refusing):
            refusal: Refusal | None = Refusal("rpm", self._limit(), 1.0)
        else:
            refusal = self.gate.admit(CALLER, 100, now)
        if refusal is not None:
            self.refused.append(now)
            self._back(now, released_at, Outcome.RATE_LIMITED, refusal)
        elif self.storm[0] <= now < self.storm[1]:
            self.gate.release(CALLER)
            self.wasted.append(now)
            self._back(now, released_at, Outcome.OVERLOADED)
        else:
            self.admitted.append(now)
            self._at(now + self.latency.sample(self.chance), "_done", released_at)

    def _done(self, now: float, released_at: float) -> None:
        self.gate.release(CALLER)
        self._back(now, released_at, Outcome.SUCCEEDED)

    def _back(self, now: float, released_at: float, outcome: Outcome, refusal: Refusal | None = None) -> None:
        pause = ROUND_TRIP / 2 + SETTLING * self.chance.random()
        self._at(now + pause, "_settle", released_at, outcome, refusal)
