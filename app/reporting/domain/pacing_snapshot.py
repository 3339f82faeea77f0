"""What Redis shows of the gate at one instant, for people to look at. Instants are gate time, in seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class QuotaSnapshot:
    """A quota as it stands in Redis."""

    id: str
    rate: float | None = None  # calls a second at which its bucket refills
    cap: int | None = None  # calls at once in force, told or learned
    token_rate: float | None = None
    flight: int = 0
    braked_for: float = 0.0  # seconds from now
    why: str = ""
    brakes: int = 0  # since Redis began

    @property
    def braked(self) -> bool:
        """Whether nothing may pass now."""
        return self.braked_for > 0


@dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    """A worker's last word."""

    id: str
    keys: tuple[str, ...]  # whose queues it consumes
    slots: int  # calls it may hold by now
    held: int
    age: float  # seconds since it was said


@dataclass(frozen=True, slots=True)
class PacingSnapshot:
    """All of it."""

    term: str = ""  # of the present leader; empty: nobody leads
    beat: int = 0  # counts up while the leader lives
    queues: Mapping[str, int] = field(default_factory=dict)  # messages by backlog queue, all priorities
    keys: Mapping[str, int] = field(default_factory=dict)  # messages by key: released, about to start
    flights: Mapping[str, int] = field(default_factory=dict)  # permits out by key
    released: int = 0  # permits that no worker has redeemed yet
    workers: int = 0  # that reported in the last seconds
    slots: int = 0  # calls that these may hold
    quotas: Mapping[str, QuotaSnapshot] = field(default_factory=dict)
    reports: Sequence[WorkerSnapshot] = ()  # of those workers
    now: float = 0.0  # gate time
