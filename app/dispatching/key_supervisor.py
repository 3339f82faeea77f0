"""Know what an operator has paused and which keys are not to be used; test keys, and give them back.

The dispatcher's turn asks `closures` and tells `heard`, which wait for nobody. `look` (twice a second) reads and writes
the database, `test` makes the tests that are due: each in a thread of its own, as a test may take seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

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
from app.upstreams.store.health import forget_health, load_health, save_health

log = structlog.get_logger("penstock.health")


class Tester(Protocol):
    """Asks upstreams."""

    def test(self, key: str, test: Probe) -> Probed:
        """Ask a key's upstream. Takes some seconds at most."""


class KeySupervisor:
    """One for a leader. Implements the dispatcher's Watch."""

    def __init__(
        self,
        database: Database,
        health: KeyHealth,
        tester: Tester,
        clock: Clock,
        release: Callable[[str], object],
    ) -> None:
        """`release` takes the brake off a quota: what was given back is to be used at once."""
        self._database = database
        self._health = health
        self._tester = tester
        self._clock = clock
        self._release = release
        self._lock = threading.Lock()
        self._pauses = Pauses()
        self._closures = Suspensions()
        self._proofs: Mapping[str, Proof] = NO_PROOFS
        self._ahead: float | None = None  # seconds of our clock before gate time, a turn's length included
        self._written: Mapping[str, KeyStatus] = {}

    # -- what the dispatcher's turn asks

    def heard(self, reports: Sequence[CallReport]) -> None:
        """What settled calls came to."""
        if not reports:
            return
        now = self._clock.now()
        with self._lock:
            self._ahead = now - max(r.at for r in reports)
            self._prove(reports)
            changed = [self._health.heard(_evidence(r, now)) for r in reports]
            if any(changed):
                self._close()

    def closures(self) -> Suspensions:
        """What planning is to leave alone now."""
        if self._closures.refusing or self._closures.resting or self._closures.probed:  # end by themselves
            with self._lock:
                self._close()
        return self._closures

    def proofs(self) -> Mapping[str, Proof]:
        """When keys were last known to be good, in gate time."""
        return self._proofs

    def _prove(self, reports: Sequence[CallReport]) -> None:
        """Under the lock."""
        proofs = dict(self._proofs)
        for r in reports:
            if r.outcome is Outcome.SUCCEEDED:
                before = proofs.get(r.key, Proof())
                proofs[r.key] = replace(before, succeeded=max(before.succeeded, r.released_at))
        self._proofs = proofs

    def standing(self) -> Mapping[str, Any]:
        """Keys and accounts that are not to be used, with the reason."""
        with self._lock:
            bad = {n: s for n, s in self._health.standings.items() if s.condition is not Condition.ACTIVE}
        return {name: {"condition": one.condition, "reason": one.reason} for name, one in bad.items()}

    # -- what it does by itself

    def recall(self) -> None:
        """Take up what stands in the database: at the begin of a lead. Raises DatabaseUnreachable."""
        pauses = self._database.read(load_pauses)
        kept = self._database.read(load_health)
        known = {f"key:{key}" for key in self._health.keys}
        known |= {f"account:{held.account}" for held in self._health.keys.values()}
        with self._lock:
            self._pauses = Pauses.of(pauses)
            self._health.standings = {name: one for name, one in kept.items() if name in known}
            self._written = dict(self._health.standings)
            self._close()
        if gone := kept.keys() - known:
            self._database.write(lambda conn: forget_health(conn, gone))

    def look(self) -> None:
        """Read pauses, write what has changed, take up what an operator gave back. Raises DatabaseUnreachable."""
        pauses = Pauses.of(self._database.read(load_pauses))
        given = self._given_back()
        with self._lock:
            self._pauses = pauses
            for key in given:
                self._health.give_back(key, self._clock.now())
            standings = dict(self._health.standings)
            self._close()
        changed = {name: one for name, one in standings.items() if self._written.get(name) != one}
        if changed:
            self._database.write(lambda conn: save_health(conn, changed, self._clock.now()))
            self._written = standings
        for key in given:
            self._open(key)

    def test(self) -> int:
        """Make the tests that are due. Returns how many. Raises RedisUnreachable, DatabaseUnreachable, NotLeading."""
        with self._lock:
            orders = self._health.due(self._clock.now())
        for order in orders:
            self._carry_out(order)
        return len(orders)

    def _carry_out(self, order: Order) -> None:
        test = self._tester.test(order.key, order.test)
        if test.finding is KeyTestResult.WORKS and self._is_bad(order.subject):
            # What worked may have been put in place since: no worker is to go on with what was refused.
            self._database.write(lambda conn: ask_secrets(conn, self._clock.now()))
        with self._lock:
            changed = self._health.tested(order, test)
            bad = self._is_bad(order.subject)
            self._note_test(order, test)
            self._close()
        log.info("tested", subject=order.subject, test=order.test, finding=test.finding, status=test.status)
        if changed and not bad:
            log.warning("in use again", subject=order.subject, why=test.words)
            self._open(order.key)

    def _is_bad(self, subject: str) -> bool:
        return self._health.standings.get(subject, KeyStatus()).condition is not Condition.ACTIVE

    def _note_test(self, order: Order, test: Probed) -> None:
        """Under the lock: a key that works by its own test."""
        if order.test is Probe.MODELS and test.finding is KeyTestResult.WORKS and self._ahead is not None:
            proof = self._proofs.get(order.key, Proof())
            self._proofs = {**self._proofs, order.key: replace(proof, tested=test.at - self._ahead)}

    def _open(self, key: str) -> None:
        """Take off its brakes: a key that is given back is used at once."""
        held = self._health.keys[key]
        for name in (key_quota(key, ANY), account_quota(held.account, ANY)):
            self._release(name)

    def _given_back(self) -> list[str]:
        """Keys that are bad here and good in the database: somebody else has said so, later than we did."""
        with self._lock:
            bad = {n: s for n, s in self._health.standings.items() if s.condition is not Condition.ACTIVE}
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

    def _close(self) -> None:
        """Under the lock: what is not to be used, anew."""
        shut = {**self._health.shut, **self._pauses.keys}
        closed = self._health.refusals.closed(self._clock.now())
        resting = {name: (one.seconds, one.words) for name, one in closed.pop(EVERYBODY, {}).items()}
        refusing = {
            client: {name: Suspension(one.words, by_operator=False) for name, one in of_client.items()}
            for client, of_client in closed.items()
        }
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
