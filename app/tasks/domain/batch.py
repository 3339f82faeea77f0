"""Batches: their states, and how they advance as their tasks end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class BatchStatus(StrEnum):
    """States of a batch, as in OpenAI's API. `failed` means that its input was rejected."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether this state is final."""
        return self in BATCH_ENDS


BATCH_ENDS = frozenset(
    {BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED}
)
_RUNS = frozenset({BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, BatchStatus.CANCELLING})


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """Counters of a batch. `completed` counts successes; `failed` includes expired tasks."""

    status: BatchStatus
    total: int
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    expires_at: float | None = None

    @property
    def open(self) -> int:
        """Tasks that have not ended."""
        return self.total - self.completed - self.failed - self.cancelled


def advance(
    before: BatchProgress, *, completed: int, failed: int, cancelled: int, at: float
) -> BatchProgress:
    """Count tasks that ended; the last one ends the batch.

    A batch being cancelled ends `cancelled`; one with failures and past its deadline, `expired`; any other,
    `completed`. A batch whose input is still arriving has no last task yet.
    """
    after = replace(
        before,
        completed=before.completed + completed,
        failed=before.failed + failed,
        cancelled=before.cancelled + cancelled,
    )
    if after.status not in _RUNS or after.open > 0:
        return after
    return replace(after, status=_end(after, at))


def _end(progress: BatchProgress, at: float) -> BatchStatus:
    if progress.status is BatchStatus.CANCELLING:
        return BatchStatus.CANCELLED
    if progress.failed and progress.expires_at is not None and at >= progress.expires_at:
        return BatchStatus.EXPIRED
    return BatchStatus.COMPLETED
