"""The service at one instant, as values: what Redis shows, what operators see of it and what /metrics exports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from app.pacing.domain.breaker import BreakerState
from app.reporting.domain.bottleneck import Bottleneck
from app.tasks.domain.pauses import EVERYTHING, Pauses
from app.upstreams.domain.key_health import Condition, KeyStatus


@dataclass(frozen=True, slots=True)
class QuotaSnapshot:
    """A quota's state in Redis."""

    id: str
    rate: float | None = None  # refill of its bucket, in calls per second
    cap: int | None = None  # concurrency limit in force, configured or learned
    token_rate: float | None = None
    flight: int = 0
    braked_for: float = 0.0  # seconds from now
    why: str = ""
    brakes: int = 0  # since Redis started

    @property
    def braked(self) -> bool:
        """Whether it accepts no calls now."""
        return self.braked_for > 0


@dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    """A worker's last report."""

    id: str
    keys: tuple[str, ...]  # whose queues it consumes
    slots: int  # its pool's size; 0 while it takes no tasks
    held: int
    age: float  # seconds since the report


@dataclass(frozen=True, slots=True)
class PacingSnapshot:
    """All of it."""

    term: str = ""  # of the current leader; empty: none
    beat: int = 0  # the leader's heartbeat counter
    queues: Mapping[str, int] = field(default_factory=dict)  # messages by backlog queue, all priorities
    keys: Mapping[str, int] = field(default_factory=dict)  # messages by key: released, not started yet
    flights: Mapping[str, int] = field(default_factory=dict)  # permits in use by key
    released: int = 0  # permits not redeemed by a worker yet
    workers: int = 0  # that reported in the last seconds
    slots: int = 0  # calls these can hold
    quotas: Mapping[str, QuotaSnapshot] = field(default_factory=dict)
    reports: Sequence[WorkerSnapshot] = ()  # of those workers
    now: float = 0.0  # gate time


@dataclass(frozen=True, slots=True)
class LimitFigures:
    """Limits per minute, and of concurrent calls. None: unknown."""

    rpm: float | None = None
    tpm: float | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class BreakerSnapshot:
    """A breaker that is not closed."""

    state: BreakerState
    reason: str
    opens_at: float


@dataclass(frozen=True, slots=True)
class QuotaView:
    """One quota: its configured, learned and effective limits, and its use."""

    id: str
    kind: str  # account, key or upstream
    name: str
    model: str
    upstreams: tuple[str, ...]
    told: LimitFigures
    learned: LimitFigures
    in_force: LimitFigures
    flight: int
    last_minute: int  # calls released in the last 60 s
    waiting: int  # tasks of models that use it
    braked_until: float | None
    why: str
    brakes: int  # since Redis started
    breaker: BreakerSnapshot | None = None


class KeyState(StrEnum):
    """A key's state as operators see it."""

    ACTIVE = "active"
    PAUSED = "paused"  # by an operator
    DISABLED = "disabled"  # the upstream refuses it (401)
    NO_BALANCE = "no_balance"  # its account has no balance (402)
    UNREACHABLE = "unreachable"  # health checks of its upstream fail
    BRAKED = "braked"  # all its quotas are paused or behind an open breaker
    UNUSED = "unused"  # no model uses it


@dataclass(frozen=True, slots=True)
class KeyView:
    """One key at an upstream."""

    name: str
    upstream: str
    account: str
    state: KeyState
    reason: str
    flight: int
    last_minute: int
    status: KeyStatus  # its own health or its account's, whichever is worse
    quotas: tuple[str, ...]  # that limit its calls
    workers: int  # that consume its queue
    fixes: tuple[tuple[str, str], ...] = ()  # what its upstream needs: model, words


@dataclass(frozen=True, slots=True)
class ModelView:
    """How many tasks wait for a model, and for what."""

    name: str
    waiting: int
    waiting_for: str | None
    opens_in: float | None


@dataclass(frozen=True, slots=True)
class LeaderSnapshot:
    """The current or last leader. None: unknown."""

    term: str = ""
    beats: bool = False
    since: float | None = None
    last_beat_at: float | None = None
    ticks: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerEntry:
    """A worker process; `slots` is None while Redis is unreachable."""

    id: str
    host: str | None
    pid: int | None
    keys: tuple[str, ...]
    slots: int | None
    held: int | None
    last_seen_at: float


@dataclass(frozen=True, slots=True)
class DispatcherSnapshot:
    """All of it."""

    at: float
    holdup: Bottleneck
    database: bool
    redis: bool
    leader: LeaderSnapshot
    waiting: int
    flight: int
    slots: int
    pauses: Mapping[str, float] = field(default_factory=dict)  # by subject: since when
    models: Sequence[ModelView] = ()
    quotas: Sequence[QuotaView] = ()
    keys: Sequence[KeyView] = ()
    workers: Sequence[WorkerEntry] = ()


def key_state(
    name: str, status: KeyStatus, pauses: Pauses, quotas: Iterable[QuotaView], now: float
) -> tuple[KeyState, str]:
    """A key's state and its reason. An operator's pause comes first, then the upstream's refusal."""
    if name in pauses.keys:
        return KeyState.PAUSED, pauses.keys[name].words
    if status.condition is Condition.DISABLED:
        return KeyState.DISABLED, status.reason
    if status.condition is Condition.NO_BALANCE:
        return KeyState.NO_BALANCE, status.reason
    if status.condition is Condition.UNREACHABLE:
        return KeyState.UNREACHABLE, status.reason
    passed = list(quotas)
    if not passed:
        return KeyState.UNUSED, "no model uses it"
    if EVERYTHING in pauses.subjects:
        return KeyState.PAUSED, "paused by an operator: everything"
    return _braked(passed, now)


def _braked(passed: Sequence[QuotaView], now: float) -> tuple[KeyState, str]:
    """Paused if its quota for all models is closed, or the quota of each of its models."""
    models = {quota.model for quota in passed if quota.model != "*"}
    closed = {quota.model: _closed(quota, now) for quota in passed if _closed(quota, now)}
    if "*" in closed:
        return KeyState.BRAKED, closed["*"]
    if models and models <= closed.keys():
        return KeyState.BRAKED, "; ".join(sorted(set(closed.values())))
    return KeyState.ACTIVE, "; ".join(f"{why} ({model})" for model, why in sorted(closed.items()))


def _closed(quota: QuotaView, now: float) -> str:
    """Why a quota accepts no calls now; empty when it does."""
    if quota.breaker is not None and quota.breaker.state is BreakerState.OPEN:
        return f"breaker open: {quota.breaker.reason}"
    if quota.braked_until is not None and quota.braked_until > now:
        return quota.why or "braked"
    return ""


def seen_by_workers(keys: Iterable[str], reports: Iterable[WorkerSnapshot]) -> dict[str, int]:
    """How many workers consume each key's queue."""
    consumed = [set(report.keys) for report in reports]
    return {key: sum(key in of for of in consumed) for key in keys}


@dataclass(frozen=True, slots=True)
class OldestWait:
    """The longest wait of a task ready to run, and the largest share of a deadline used by waiting."""

    seconds: float = 0.0
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """What /metrics exports. Unknown values are empty or None."""

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
    without_balance: Mapping[str, float] = field(default_factory=dict)  # by account: 1 without balance
    budgets: Mapping[str, float] = field(
        default_factory=dict
    )  # by client: the largest used share of a budget


def oldest_wait(rows: list[tuple[float, float, float, int]], now: float) -> OldestWait:
    """Of tasks ready to run, given as (created_at, available_at, expires_at, attempts)."""
    seconds = share = 0.0
    for created_at, available_at, expires_at, attempts in rows:
        since = created_at if attempts else max(created_at, available_at)
        seconds = max(seconds, now - since)
        share = max(share, (now - since) / max(1.0, expires_at - since))
    return OldestWait(max(0.0, seconds), max(0.0, share))


def breaker_state(state: QuotaSnapshot) -> str:
    """The breaker's state from an upstream's quota: no cap is closed, a cap of 0 is open."""
    if state.cap is None:
        return "closed"
    return "open" if state.cap == 0 else "half_open"
