"""What those outside this room need of it: permits for workers, and why a task waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from app.pacing.domain.why import starts_in
from app.tasks.domain.attempt import Permit, RefusedPermit, Settlement
from app.tasks.domain.task import NOT_DUE
from app.tasks.store.tasks import TaskRow


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker process tells the dispatcher each second."""

    worker: str
    keys: tuple[str, ...]  # whose queues it consumes
    slots: int  # calls it may hold by now, its pool's size at most; 0 while it drains or has no database
    held: int  # calls in its hands


class Permits(Protocol):
    """The pacing store, as a worker sees it."""

    def redeem(self, task_id: str, worker: str) -> Permit | RefusedPermit:
        """Exchange a released task's permit for the right to send within 2 s."""

    def may_send(self, permit: Permit, send_by: float) -> bool:
        """Just before the send: whether it may come now. Waits for that, at the latest until `send_by` (monotonic)."""

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """End permits and tell waiters of ended tasks. Raises Unreachable; the caller keeps and repeats."""

    def report(self, report: WorkerReport) -> None:
        """Tell the dispatcher what this worker consumes and can take."""


@dataclass(frozen=True, slots=True)
class Queued:
    """A waiting task, as far as its explanation needs it."""

    task_id: str
    sequence: int
    model: str
    client_id: str
    queue: str
    step: int
    hold: int
    available_at: float
    batch_id: str | None
    due: float = NOT_DUE
    attempts: int = 0  # calls made for it so far
    batch_paused: bool = False
    code: str | None = None  # why it was put off

    @classmethod
    def of(cls, row: TaskRow) -> Queued:
        """Out of a row as it was read."""
        return cls(
            task_id=row.id,
            code=row.error_code,
            sequence=row.seq,
            model=row.model,
            client_id=row.client_id,
            queue=row.queue,
            step=row.step,
            hold=row.hold,
            available_at=row.available_at,
            batch_id=row.batch_id,
            due=row.due,
            attempts=row.attempts,
            batch_paused=row.batch_paused_at is not None,
        )


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a task waits, and for how long about. What is not known is None."""

    position: int | None = None  # among what its client has waiting for its model at its priority, from 1
    estimated_start_at: float | None = None  # Unix seconds
    waiting_for: str | None = None


@dataclass(frozen=True, slots=True)
class QueueForecast:
    """What a task that comes now meets in its line."""

    ahead: int  # tasks before it
    rate: float | None  # releases a second; None: nothing is known of it
    opens_in: float  # seconds until its model is open; infinite where nobody knows

    def starts_in(self, more: int = 0) -> float | None:
        """Seconds until about its start, with so many more before it; None where nobody knows."""
        return starts_in(self.ahead + more, self.rate, self.opens_in)


class Explain(Protocol):
    """Says why a task waits."""

    def foresee(self, model: str, queue: str, step: int, due: float) -> QueueForecast | None:
        """What a task that came now would meet; None where nobody knows. Never raises and never takes long."""

    def explain(self, task: Queued) -> Explanation:
        """Never raises and never takes long: what is not known now stays None."""


class NoExplanation:
    """Knows nothing."""

    def foresee(self, model: str, queue: str, step: int, due: float) -> QueueForecast | None:  # noqa: ARG002
        """Nothing."""
        return None

    def explain(self, task: Queued) -> Explanation:  # noqa: ARG002
        """An empty explanation."""
        return Explanation()


@dataclass(frozen=True, slots=True)
class RunningCall:
    """What a permit must say of a call that runs: it is put back after Redis was lost."""

    task_id: str
    release: int
    worker: str
    key: str
    upstream: str
    account: str
    upstream_model: str
    quotas: tuple[str, ...]
    estimate: int
