"""The dispatcher, its quotas and keys in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from app.platform.domain.times import to_rfc3339
from app.reporting.domain.dispatcher_snapshot import (
    DispatcherSnapshot,
    KeyStanding,
    LeaderSnapshot,
    QuotaStanding,
    WorkerStanding,
)
from app.upstreams.domain.key_health import Probed


def dispatcher(sight: DispatcherSnapshot) -> dict[str, Any]:
    """All of it."""
    quotas = {quota.id: quota for quota in sight.quotas}
    return {
        "object": "dispatcher",
        "at": to_rfc3339(sight.at),
        "holdup": {"holder": sight.holdup.holder, "words": sight.holdup.words},
        "database": sight.database,
        "redis": sight.redis,
        "leader": _leader(sight.leader),
        "waiting": sight.waiting,
        "in_flight": sight.flight,
        "slots": sight.slots,
        "pauses": pauses(sight.pauses),
        "models": [asdict(model) for model in sight.models],
        "quotas": [_quota(quota) for quota in sight.quotas],
        "keys": [key(one, quotas) for one in sight.keys],
        "workers": [_worker(worker) for worker in sight.workers],
    }


def pauses(since: Mapping[str, float]) -> list[dict[str, Any]]:
    """By subject."""
    return [{"subject": subject, "since": to_rfc3339(at)} for subject, at in since.items()]


def key(one: KeyStanding, quotas: Mapping[str, QuotaStanding]) -> dict[str, Any]:
    """Without its secret: that is not known here."""
    standing = one.standing
    return {
        "name": one.name,
        "object": "upstream_key",
        "upstream": one.upstream,
        "account": one.account,
        "state": one.state,
        "reason": one.reason,
        "since": to_rfc3339(standing.since) if standing.since else None,
        "in_flight": one.flight,
        "last_minute": one.last_minute,
        "workers": one.workers,
        "next_test_at": _instant(standing.next_test_at),
        "last_test": None if standing.last is None else test(standing.last),
        "quotas": [_quota(quotas[name]) for name in one.quotas],
    }


def test(tested: Probed) -> dict[str, Any]:
    """A test of a key."""
    return {
        "finding": tested.finding,
        "at": to_rfc3339(tested.at),
        "seconds": round(tested.seconds, 3),
        "status": tested.status,
        "words": tested.words,
    }


def _leader(leader: LeaderSnapshot) -> dict[str, Any]:
    return {
        "term": leader.term,
        "beats": leader.beats,
        "since": _instant(leader.since),
        "last_beat_at": _instant(leader.last_beat_at),
        "ticks": leader.ticks,
    }


def _quota(quota: QuotaStanding) -> dict[str, Any]:
    breaker = quota.breaker
    return {
        "id": quota.id,
        "kind": quota.kind,
        "name": quota.name,
        "model": quota.model,
        "upstreams": list(quota.upstreams),
        "told": asdict(quota.told),
        "learned": asdict(quota.learned),
        "in_force": asdict(quota.in_force),
        "in_flight": quota.flight,
        "last_minute": quota.last_minute,
        "waiting": quota.waiting,
        "braked_until": _instant(quota.braked_until),
        "why": quota.why,
        "brakes": quota.brakes,
        "breaker": None
        if breaker is None
        else {"state": breaker.state, "reason": breaker.reason, "opens_at": to_rfc3339(breaker.opens_at)},
    }


def _worker(worker: WorkerStanding) -> dict[str, Any]:
    return {**asdict(worker), "keys": list(worker.keys), "last_seen_at": to_rfc3339(worker.last_seen_at)}


def _instant(at: float | None) -> str | None:
    return None if at is None else to_rfc3339(at)
