"""Pauses and key health: what planning must leave alone, tests of suspended keys, and their return to use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog

from app.pacing.domain.rate_controller import CallReport
from app.pacing.store.leader_state import load_pauses
from app.platform.database import Database
from app.platform.ports import Clock
from app.settings.domain.routing import ANY, account_quota, key_quota
from app.settings.follow_configuration import ask_secrets
from app.tasks.domain.attempt import Outcome
from app.tasks.domain.pauses import Pauses, Suspension, Suspensions
from app.upstreams.domain.key_health import (
    NO_PROOFS,
    Condition,
    KeyHealth,
    KeyStatus,
    KeyTestResult,
    Order,
    Probe,
    Probed,
    Proof,
)
from app.upstreams.domain.refusals import EVERYBODY, HeardCall
from app.upstreams.key_tests import UpstreamTests
from app.upstreams.store.health import forget_health, load_health, save_health

log = structlog.get_logger("penstock.health")


class KeySupervisor:
    """Pauses and the health of all keys. Implements the dispatcher's KeyWatch.

    `heard`, `suspensions` and `proofs` wait for neither database nor network, as the tick calls them. A lock guards all
    state; what the tick reads without it is exchanged as a whole and never changed.
    Threads: `heard`, `suspensions`, `proofs`, `unhealthy`, `recall`: tick; `look`: watcher; `test`: tester.
    """

    def __init__(
        self,
        database: Database,
        health: KeyHealth,
        tester: UpstreamTests,
        clock: Clock,
        release: Callable[[str], object],
        forbidden: Callable[[], Mapping[str, Mapping[str, str]]] = dict,
    ) -> None:
        """`release` takes the brake off a quota, so that a key that works again is used at once.

        `forbidden`: quotas that policies close to a client, and by which policy; raises DatabaseUnreachable.
        """
        self._forbidden = forbidden
        self._barred_places: Mapping[str, Mapping[str, str]] = {}
        self._database = database
        self._health = health
        self._tester = tester
        self._clock = clock
        self._release = release
        self._lock = threading.Lock()
        self._pauses = Pauses()
        self._closures = Suspensions()
        self._proofs: Mapping[str, Proof] = NO_PROOFS
        self._ahead: float | None = (
            None  # seconds that our clock is ahead of pacing time, plus up to one tick
        )
        self._written: dict[str, KeyStatus] = {}

    # -- called by the tick

    def heard(self, reports: Sequence[CallReport]) -> None:
        """Take in outcomes of calls."""
        if not reports:
            return
        now = self._clock.now()
        with self._lock:
            self._ahead = now - max(r.at for r in reports)
            self._prove(reports)
            changed = [self._health.heard(_evidence(r, now)) for r in reports]
            if any(changed):
                self._recompute()

    def suspensions(self) -> Suspensions:
        """What planning must leave alone now."""
        if self._closures.refusing or self._closures.resting or self._closures.probed:  # end by themselves
            with self._lock:
                self._recompute()
        return self._closures

    def proofs(self) -> Mapping[str, Proof]:
        """When keys last worked, in pacing time."""
        return self._proofs

    def _prove(self, reports: Sequence[CallReport]) -> None:
        """Call under the lock."""
        proofs = dict(self._proofs)
        for r in reports:
            if r.outcome is Outcome.SUCCEEDED:
                before = proofs.get(r.key, Proof())
                proofs[r.key] = replace(before, succeeded=max(before.succeeded, r.released_at))
        self._proofs = proofs

    def unhealthy(self) -> Mapping[str, Any]:
        """Suspended keys and accounts, with the reason."""
        with self._lock:
            bad = {n: s for n, s in self._health.statuses.items() if s.condition is not Condition.ACTIVE}
        return {name: {"condition": one.condition, "reason": one.reason} for name, one in bad.items()}

    # -- called by the leader's other threads

    def recall(self) -> None:
        """Load pauses and health from the database, before leading. Raises DatabaseUnreachable."""
        pauses = self._database.read(load_pauses)
        kept = self._database.read(load_health)
        self._barred_places = self._forbidden()
        known = {f"key:{key}" for key in self._health.keys}
        known |= {f"account:{held.account}" for held in self._health.keys.values()}
        with self._lock:
            self._pauses = Pauses.of(pauses)
            self._health.statuses = {name: one for name, one in kept.items() if name in known}
            self._written = dict(self._health.statuses)
            self._recompute()
        if gone := kept.keys() - known:
            self._database.write(lambda conn: forget_health(conn, gone))

    def look(self) -> None:
        """Read pauses and keys that an operator resumed; store what has changed. Raises DatabaseUnreachable."""
        pauses = Pauses.of(self._database.read(load_pauses))
        resumed = self._resumed()
        self._barred_places = self._forbidden()
        with self._lock:
            self._pauses = pauses
            for key in resumed:
                self._health.give_back(key, self._clock.now())
            statuses = dict(self._health.statuses)
            self._recompute()
            changed = {name: one for name, one in statuses.items() if self._written.get(name) != one}
        if changed:
            self._database.write(lambda conn: save_health(conn, changed, self._clock.now()))
            with self._lock:
                self._written.update(changed)
        for key in resumed:
            self._open(key)

    def test(self) -> int:
        """Run the tests that are due. Returns how many. Raises RedisUnreachable, DatabaseUnreachable, NotLeading."""
        with self._lock:
            orders = self._health.due(self._clock.now())
        for order in orders:
            self._carry_out(order)
        return len(orders)

    def _carry_out(self, order: Order) -> None:
        test = self._tester.test(order.key, order.test)
        if test.finding is KeyTestResult.WORKS and self._is_bad(order.subject):
            # The key that works may be a new one: workers must not go on with the one that was refused.
            self._database.write(lambda conn: ask_secrets(conn, self._clock.now()))
        with self._lock:
            changed = self._health.tested(order, test)
            bad = self._is_bad(order.subject)
            self._note_test(order, test)
            self._recompute()
        log.info(
            "key tested",
            subject=order.subject,
            test=order.test,
            finding=test.finding,
            status=test.status,
            words=test.words,
        )
        if changed and not bad:
            log.warning("key in use again", subject=order.subject, reason=test.words)
            self._open(order.key)

    def _is_bad(self, subject: str) -> bool:
        return self._health.statuses.get(subject, KeyStatus()).condition is not Condition.ACTIVE

    def _note_test(self, order: Order, test: Probed) -> None:
        """Note a key whose own test worked. Call under the lock."""
        works = order.test is Probe.MODELS and test.finding is KeyTestResult.WORKS and test.proves
        if works and self._ahead is not None:
            proof = self._proofs.get(order.key, Proof())
            self._proofs = {**self._proofs, order.key: replace(proof, tested=test.at - self._ahead)}

    def _open(self, key: str) -> None:
        """Take off its brakes, so that it is used at once."""
        held = self._health.keys[key]
        for name in (key_quota(key, ANY), account_quota(held.account, ANY)):
            self._release(name)

    def _resumed(self) -> list[str]:
        """Keys that are suspended here and active in the database, where an operator resumed them since."""
        with self._lock:
            bad = {n: s for n, s in self._health.statuses.items() if s.condition is not Condition.ACTIVE}
            keys = dict(self._health.keys)
        if not bad:
            return []
        kept = self._database.read(load_health)
        good = {
            name
            for name, one in bad.items()
            if name in kept and kept[name].condition is Condition.ACTIVE and kept[name].since > one.since
        }
        return [key for key, held in keys.items() if {f"key:{key}", f"account:{held.account}"} & good]

    def _recompute(self) -> None:
        """Recompute what must not be used. Call under the lock."""
        shut = {**self._health.shut, **self._pauses.keys}
        closed = self._health.refusals.closed(self._clock.now())
        resting = {name: (one.seconds, one.words) for name, one in closed.pop(EVERYBODY, {}).items()}
        refusing = {
            client: {name: Suspension(one.words, by_operator=False) for name, one in of_client.items()}
            for client, of_client in closed.items()
        }
        for client, places in self._barred_places.items():
            words = {name: f"no route for it is allowed by policy {rule}" for name, rule in places.items()}
            closed_to = {name: Suspension(said, by_operator=False) for name, said in words.items()}
            refusing.setdefault(client, {}).update(closed_to)
        for client, barred in self._health.barred.items():
            refusing.setdefault(client, {}).update(barred)
        self._closures = Suspensions(self._pauses, shut, refusing, resting, self._health.probed)


def _evidence(report: CallReport, now: float) -> HeardCall:
    return HeardCall(
        report.outcome,
        report.client,
        report.task,
        report.key,
        report.account,
        report.upstream_model,
        now - (report.at - report.released_at),
        now,
        report.status,
        report.words,
    )
