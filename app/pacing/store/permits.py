"""Permits in Redis, as a worker uses them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import orjson

from app.pacing.ports import WorkerReport
from app.platform.domain.errors import RedisUnreachable
from app.platform.redis_scripts import Scripts
from app.tasks.domain.attempt import Permit, RefusedPermit, Settlement

STALE = 2.0  # seconds after release within which a permit must be redeemed
SOON = 0.1  # seconds from the count of a send to the send that the buckets leave room for (prelude.lua)
LATE_FOR = 10.0  # seconds after a call that came later, in which sends are counted only when they come
_CHUNK = 100


class RedisPermits:
    """What workers do with permits.

    Sends are counted with the exchange of the permit: one call of Redis for both. Where this process or the database
    is slow, calls that were counted one by one would leave together, with later ones: those are counted again as they
    leave, and for a while all are counted only then.
    """

    def __init__(
        self,
        scripts: Scripts,
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scripts = scripts
        self._sleep = sleep
        self._monotonic = monotonic
        self._late_until = -1e18

    def redeem(self, task_id: str, worker: str) -> Permit | RefusedPermit:
        """Exchange a permit for the right to send within 2 s. Waits as long as keeps sends from bunching."""
        while True:
            asked = self._monotonic()
            at_once = asked >= self._late_until
            try:
                word, *rest = self._scripts.run("redeem", task_id, worker, STALE, "1" if at_once else "")
            except RedisUnreachable:
                return RefusedPermit(task_id, "unreachable")
            if word == b"later":
                self._sleep(float(rest[0]) + 0.001)
            elif word == b"ok":
                return replace(_permit(task_id, rest), counted_at=asked if at_once else None)
            else:
                return RefusedPermit(task_id, word.decode())

    def may_send(self, permit: Permit, send_by: float) -> bool:
        """Whether its call may be sent now. Waits until it may, or until it no longer can before `send_by`."""
        now = self._monotonic()
        if permit.counted_at is not None:
            if now - permit.counted_at <= SOON:
                return True
            self._late_until = now + LATE_FOR
        while now < send_by:
            try:
                word, *rest = self._scripts.run("send", *permit.quotas)
            except RedisUnreachable:
                return False
            if word != b"later":
                return bool(word == b"ok")
            self._sleep(float(rest[0]) + 0.001)
            now = self._monotonic()
        return False

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """End permits, brake, report and notify waiters, 100 per call. Raises RedisUnreachable."""
        for start in range(0, len(settlements), _CHUNK):
            self._scripts.run("settle", *map(_encoded, settlements[start : start + _CHUNK]))

    def report(self, report: WorkerReport) -> None:
        """Report what this worker consumes and how many calls it can hold. Raises RedisUnreachable."""
        facts = {"keys": report.keys, "slots": report.slots, "held": report.held, "pool": report.pool}
        self._scripts.run("report", report.worker, orjson.dumps(facts))

    def leave(self, worker: str) -> None:
        """Deregister this worker. Raises RedisUnreachable."""
        self._scripts.command("HDEL", "penstock:workers", worker)


def _permit(task_id: str, fields: Sequence[bytes]) -> Permit:
    release, key, upstream, account, model, estimate, released_at, quotas, proved_at, tested_at = fields
    return Permit(
        task_id,
        int(release),
        key.decode(),
        upstream.decode(),
        account.decode(),
        model.decode(),
        tuple(name.decode() for name in quotas),  # type: ignore[attr-defined]
        int(estimate),
        float(released_at),
        proved_at=float(proved_at),
        tested_at=float(tested_at),
    )


def _encoded(s: Settlement) -> bytes:
    report = {
        "outcome": s.outcome,
        "seconds": s.seconds,
        "hints": s.hints,
        "id": s.task_id,
        "tokens": s.tokens,
        "braked": [b.quota for b in s.brakes],
        "named": s.named,
        "asked": s.asked,
        "status": s.status,
        "words": s.words,
        "used": [s.usage.prompt_tokens, s.usage.completion_tokens] if s.usage else None,
    }
    return orjson.dumps(
        {
            "id": s.task_id,
            "n": str(s.release),
            "used": s.tokens,
            "called": s.called,
            "ended": s.ended,
            "brakes": [[b.quota, b.seconds, b.reason] for b in s.brakes],
            "report": orjson.dumps(report).decode() if s.called else "",
        }
    )
