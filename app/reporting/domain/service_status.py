"""How the whole service stands at one instant: what /metrics shows of it, and what alerts are judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.reporting.domain.pacing_snapshot import QuotaSnapshot


@dataclass(frozen=True, slots=True)
class OldestWait:
    """The longest wait of a task that could run, and the largest part of a deadline that waiting has used."""

    seconds: float = 0.0
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """What is not known now is empty or None."""

    redis: bool = False
    database: bool = False
    leads: bool = False
    workers: int = 0
    slots: int = 0
    waiting_by_model: Mapping[str, int] = field(default_factory=dict)
    waiting_by_client: Mapping[str, int] = field(default_factory=dict)
    oldest: OldestWait | None = None
    quotas: Mapping[str, QuotaSnapshot] = field(default_factory=dict)
    disabled: Mapping[str, float] = field(default_factory=dict)  # by key: 1 for a disabled one
    without_balance: Mapping[str, float] = field(default_factory=dict)  # by account: 1 for one without
    budgets: Mapping[str, float] = field(default_factory=dict)  # client: the largest used part of a budget


def oldest_wait(rows: list[tuple[float, float, float, int]], now: float) -> OldestWait:
    """Of tasks that could run, as (created_at, available_at, expires_at, attempts)."""
    seconds = share = 0.0
    for created_at, available_at, expires_at, attempts in rows:
        since = created_at if attempts else max(created_at, available_at)
        seconds = max(seconds, now - since)
        share = max(share, (now - since) / max(1.0, expires_at - since))
    return OldestWait(max(0.0, seconds), max(0.0, share))


def breaker_state(sight: QuotaSnapshot) -> str:
    """What an upstream's quota in Redis says of its breaker: no cap, none at all, or room for probes."""
    if sight.cap is None:
        return "closed"
    return "open" if sight.cap == 0 else "half_open"
