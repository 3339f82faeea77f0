"""Release what quotas, workers and fairness allow, now.

1. Take a snapshot of the pacing store (one round trip, which is also the leader's heartbeat).
2. Decide (pure).
3. Release (one round trip); charge the shares with what was released.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from app.dispatching.publish_wait_reasons import PublishWaitReasons
from app.pacing.domain.fairness import ClientShare, Shares
from app.pacing.domain.plan import Plan, Release, Snapshot, Wait, plan, settle_shares
from app.pacing.domain.rate_controller import BrakeOrder, CallReport, RateController
from app.pacing.domain.route_availability import Consumer, PrefixAffinity, allocate_slots
from app.pacing.domain.throughput import PerMinuteCounter
from app.pacing.store.pacing_store import Look, RedisPacingStore
from app.settings.domain.routing import QuotaLimits, QuotaState, Topology
from app.tasks.domain.pauses import Suspensions
from app.upstreams.domain.key_health import NO_PROOFS, Proof

REPORT_LIFE = 3.0  # seconds of pacing time for which a worker's report is valid
BEAT = 0.25  # seconds between snapshots when nothing happens
SHORTEST = 0.001  # seconds: waits for a refill instead of spinning
_HEADS = 1024  # heads in one snapshot, all lists together
_FEWEST, _FEW, _MOST = 2, 8, 128  # heads of one list: minimum, default, maximum
_FEW_HEADS = 64  # of all lists together, when little is released
_RELEASES = 500  # in one script call, which blocks Redis for some milliseconds at most


class KeyWatch(Protocol):
    """What operators paused, and which keys are suspended. Its calls never wait."""

    def heard(self, reports: Sequence[CallReport]) -> None:
        """Take in outcomes of calls."""

    def suspensions(self) -> Suspensions:
        """What planning must leave alone now."""

    def proofs(self) -> Mapping[str, Proof]:
        """When keys last worked, in pacing time."""

    def unhealthy(self) -> Mapping[str, Any]:
        """Status of keys and accounts, to be published."""


class NoWatch:
    """Nothing is paused, and every key is good."""

    def heard(self, reports: Sequence[CallReport]) -> None:
        """Ignores them."""

    def suspensions(self) -> Suspensions:
        """None."""
        return Suspensions()

    def proofs(self) -> Mapping[str, Proof]:
        """None."""
        return NO_PROOFS

    def unhealthy(self) -> Mapping[str, Any]:
        """Nothing."""
        return {}


@dataclass(slots=True)
class TickResult:
    """What one tick did, and when the next is due."""

    released: int
    next_in: float
    requeue: tuple[str, ...]
    waits: Mapping[str, Wait]
    seconds: float = 0.0  # from the snapshot to the end of the releases


@dataclass(slots=True)
class Dispatcher:
    """The leader's tick. Owned by the release loop's thread; others only read `ticks`."""

    gate: RedisPacingStore
    topology: Topology
    clients: Callable[[], Mapping[str, ClientShare]]
    shares: Shares = field(default_factory=Shares)
    ticks: int = 0
    lists: int = 1  # in the last snapshot: decides how many heads of each are read
    controller: RateController | None = None  # None: configured limits alone
    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    why: PublishWaitReasons | None = None
    affinity: PrefixAffinity = field(default_factory=PrefixAffinity)
    watch: KeyWatch = field(default_factory=NoWatch)
    last_minute: PerMinuteCounter = field(default_factory=PerMinuteCounter)
    trace: Callable[[Sequence[Release], float], object] = lambda _releases, _at: None
    _led: tuple[str, float] = ("", 0.0)  # the term, and pacing time of its first tick
    _quota_ids: tuple[str, ...] = ()
    _depth: int = _FEW  # heads of each list to read: about twice what the last ticks used

    def __post_init__(self) -> None:
        self._quota_ids = self.topology.quota_ids

    def tick(self, wait: float = 0.0) -> TickResult:
        """Take a snapshot as soon as it is woken, at the latest after `wait` seconds; decide, and release.

        Raises what the pacing store raises.
        """
        self.ticks += 1
        most = max(4, min(_MOST, _HEADS // max(1, self.lists)))
        heads = min(most, self._depth)
        view = self.gate.look(heads, self.topology, self._quota_ids, wait)
        began = self.monotonic()
        result = self._act(view, saw_all_it_may=heads >= most)
        result.seconds = self.monotonic() - began
        return result

    def _act(self, view: Look, *, saw_all_it_may: bool) -> TickResult:
        """Decide on a snapshot, and release."""
        self.lists = len(view.waiting)
        if self._led[0] != self.gate.term:
            self._led = (self.gate.term, view.now)
        self.watch.heard(view.reports)
        if self.ticks % 1000 == 0:
            self.shares.forget_idle()
        suspensions = self.watch.suspensions()
        quotas = view.quotas if self.controller is None else self._govern(self.controller, view, suspensions)
        quotas = {**quotas, **_resting(suspensions, quotas, view.now)} if suspensions.resting else quotas
        quotas = {**quotas, **_probed(suspensions, quotas)} if suspensions.probed else quotas
        snapshot = self._snapshot(view, quotas, suspensions)
        if not view.waiting:
            self._publish(snapshot, {}, [])
            return TickResult(0, BEAT, view.requeue, {})
        decided = plan(snapshot, self.topology, self.shares)
        self._depth = _next_depth(self._depth, decided, self.lists)
        done = self._carry_out(decided.releases[:_RELEASES], quotas)
        released = len(done)
        self._publish(snapshot, decided.waits, done)
        deeper = decided.more and not saw_all_it_may
        return TickResult(released, _next_in(decided, released, deeper), view.requeue, decided.waits)

    def _publish(self, snapshot: Snapshot, waits: Mapping[str, Wait], done: Sequence[Release]) -> None:
        if self.why is not None:
            self.why.record_tick(snapshot, self.topology, waits, done, lambda: self._report(snapshot))

    def _report(self, snapshot: Snapshot) -> Mapping[str, Any]:
        """What the leader publishes of itself: its term, estimates, breakers, pauses and key health."""
        controller, now = self.controller, snapshot.now
        term, since = self._led
        return {
            "term": term,
            "since": since,
            "turns": self.ticks,
            "last_minute": self.last_minute.counts(now),
            "learned": {}
            if controller is None
            else {n: _figures(of) for n, of in controller.learned().items()},
            "breakers": {} if controller is None else controller.open_breakers(now),
            "pauses": sorted(snapshot.suspensions.pauses.subjects),
            "health": self.watch.unhealthy(),
        }

    def _govern(
        self, controller: RateController, view: Look, suspensions: Suspensions
    ) -> Mapping[str, QuotaState]:
        """Update estimates, brake quotas, write limits that changed. Returns the quotas after that."""
        quotas = dict(view.quotas)
        for closing in controller.settled(view.reports):
            self.gate.brake(closing.quota, closing.seconds, closing.why)
            quotas[closing.quota] = _braked(quotas.get(closing.quota), closing, view.now)
        holds = suspensions.pauses.holds
        wanted = {one.model for one in view.waiting if holds(one.model, one.client) is None}
        controller.look(view.now, quotas, wanted)
        wished = controller.limits(view.now, quotas)
        changed = {
            name: limits for name, limits in wished.items() if _differs(self.gate.limits.get(name), limits)
        }
        if changed:
            self.gate.configure(changed)
            quotas.update({name: _limited(quotas[name], changed[name]) for name in changed if name in quotas})
        quotas.update(controller.judged(view.now, quotas))
        return quotas

    def _snapshot(self, view: Look, quotas: Mapping[str, QuotaState], suspensions: Suspensions) -> Snapshot:
        live = (w for w in view.workers if view.now - w.at < REPORT_LIFE)
        pools, slots = allocate_slots((Consumer(w.keys, w.slots) for w in live), view.flights)
        waiting = view.waiting if self.controller is None else self.controller.tokens.reserved(view.waiting)
        return Snapshot(
            view.now,
            waiting,
            quotas,
            pools,
            slots,
            self.clients(),
            flights=view.flights,
            speeds=self.controller.speeds if self.controller is not None else {},
            wall=self.wall(),
            affinity=self.affinity,
            suspensions=suspensions,
        )

    def _carry_out(self, releases: Sequence[Release], quotas: Mapping[str, QuotaState]) -> list[Release]:
        if not releases:
            return []
        words = self.gate.release(releases, self.watch.proofs())
        done = _accepted(releases, words)
        settle_shares(self.shares, done)
        if done:
            self.trace(done, self.gate.released_at)
        for release in done:
            self.last_minute.released(release.route.quotas, self.gate.released_at)
            if release.prefix:
                self.affinity.saw(release.prefix, release.route.account)
        if self.controller is not None:
            self.controller.released(done, quotas, self.gate.released_at)
        return done


def _figures(limits: QuotaLimits) -> dict[str, float | None]:
    """Limits per minute."""
    requests, tokens = limits.requests, limits.tokens
    return {
        "rpm": None if requests is None else round(requests.rate * 60, 1),
        "tpm": None if tokens is None else round(tokens.rate * 60),
        "concurrency": limits.cap,
    }


def _differs(before: QuotaLimits | None, after: QuotaLimits) -> bool:
    """Whether a change is worth a round trip: any change of a cap, more than half a percent of a rate."""
    if before is after:
        return False
    if before is None or before.cap != after.cap:
        return True
    pairs = ((before.requests, after.requests), (before.tokens, after.tokens))
    return any(
        (one is None) != (other is None)
        or (one is not None and other is not None and abs(one.rate - other.rate) > 0.005 * one.rate)
        for one, other in pairs
    )


def _limited(state: QuotaState, limits: QuotaLimits) -> QuotaState:
    """A quota under other limits, as in the pacing store: levels are kept, a new bucket starts empty."""
    requests, tokens = limits.requests, limits.tokens
    return replace(
        state,
        requests=requests,
        level=min(state.level, requests.size) if requests and state.requests else 0.0,
        tokens=tokens,
        token_level=min(state.token_level, tokens.size) if tokens and state.tokens else 0.0,
        cap=limits.cap,
    )


def _braked(state: QuotaState | None, closing: BrakeOrder, now: float) -> QuotaState:
    return replace(state or QuotaState(), braked_until=now + closing.seconds, reason=closing.why)


def _resting(suspensions: Suspensions, quotas: Mapping[str, QuotaState], now: float) -> dict[str, QuotaState]:
    """Quotas that refuse all clients' requests, as if they were braked."""
    found = {}
    for name, (seconds, why) in suspensions.resting.items():
        state = quotas.get(name, QuotaState())
        if state.braked_until < now + seconds:
            found[name] = replace(state, braked_until=now + seconds, reason=why)
    return found


def _probed(suspensions: Suspensions, quotas: Mapping[str, QuotaState]) -> dict[str, QuotaState]:
    """Quotas whose key or account seems dead: one call at a time probes it."""
    found = {}
    for name, why in suspensions.probed.items():
        state = quotas.get(name, QuotaState())
        found[name] = replace(
            state, cap=1 if state.cap is None else min(1, state.cap), judged="probe", reason=why
        )
    return found


def _accepted(releases: Sequence[Release], words: Iterable[str]) -> list[Release]:
    return [release for release, word in zip(releases, words, strict=True) if word == "ok"]


def _next_depth(depth: int, decided: Plan, lists: int) -> int:
    """Heads cost time whether they are released or not: read more only where they run out."""
    if decided.more:
        return min(_MOST, 4 * depth)
    fewest = max(_FEWEST, min(_FEW, _FEW_HEADS // max(1, lists)))
    return min(_MOST, max(fewest, 2 * decided.used, depth * 3 // 4))


def _next_in(decided: Plan, released: int, deeper: bool) -> float:
    """At once if heads ran out or one call could not release all, else when a quota opens."""
    if deeper or (released and (decided.more or len(decided.releases) > _RELEASES)):
        return 0.0
    return min(BEAT, max(SHORTEST, decided.wake_in))
