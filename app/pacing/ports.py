"""What other rooms exchange with pacing: reports of workers, running calls, and why a task waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from app.pacing.domain.why import starts_in
from app.tasks.domain.rows import TaskRow
from app.tasks.domain.task import NOT_DUE


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker process reports to the dispatcher each second."""

    worker: str
    keys: tuple[str, ...]  # whose queues it consumes
    slots: int  # calls it may hold now, at most its pool's size; 0 while it drains or has no database
    held: int  # calls it holds now
    pool: int = 0  # its pool's size, as configured; 0 while it takes no tasks


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
        """From a row."""
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
    """Why a task waits, and about how long. None: unknown."""

    position: int | None = None  # among what its client has waiting for its model at its priority, from 1
    estimated_start_at: float | None = None  # Unix seconds
    waiting_for: str | None = None


@dataclass(frozen=True, slots=True)
class QueueForecast:
    """What a new task meets in its queue."""

    ahead: int  # tasks before it
    rate: float | None  # releases a second; None: nothing is known of it
    opens_in: float  # seconds until its model is open; infinite where unknown

    def starts_in(self, more: int = 0) -> float | None:
        """About how many seconds until its start, with `more` tasks before it; None if unknown."""
        return starts_in(self.ahead + more, self.rate, self.opens_in)


class Explain(Protocol):
    """Explains why tasks wait."""

    def foresee(self, model: str, queue: str, step: int, due: float) -> QueueForecast | None:
        """What a new task would meet; None if unknown. Never raises, never takes long."""

    def is_down(self, model: str) -> bool:
        """Whether nothing can serve a model until an upstream recovers. Never raises, never takes long."""

    def is_keyless(self, model: str) -> bool:
        """Whether every key of a model is refused or unpaid. Never raises, never takes long."""

    def explain(self, task: Queued) -> Explanation:
        """Explain one task. Never raises, never takes long: what is unknown stays None."""


class NoExplanation:
    """Explains nothing."""

    def foresee(self, model: str, queue: str, step: int, due: float) -> QueueForecast | None:  # noqa: ARG002
        """Nothing."""
        return None

    def is_down(self, model: str) -> bool:  # noqa: ARG002
        """False."""
        return False

    def is_keyless(self, model: str) -> bool:  # noqa: ARG002
        """False."""
        return False

    def explain(self, task: Queued) -> Explanation:  # noqa: ARG002
        """An empty explanation."""
        return Explanation()


@dataclass(frozen=True, slots=True)
class RunningCall:
    """A running call, from which its permit is rebuilt after Redis lost its data."""

    task_id: str
    release: int
    worker: str
    key: str
    upstream: str
    account: str
    upstream_model: str
    quotas: tuple[str, ...]
    estimate: int
