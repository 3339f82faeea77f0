"""Note when a task is likely to start, as it looks at its submission: what was told is held against what came."""

from __future__ import annotations

from app.pacing.ports import Explain
from app.tasks.domain.task import Hold
from app.tasks.store.submissions import NewTask

_IN_LINE = (Hold.NONE, Hold.BATCH)  # rows of a batch are let go as soon as all of it is there


def estimate_start(row: NewTask, explain: Explain, now: float) -> None:
    """Write the estimated start into a row that was drafted a moment ago, and that nobody else holds yet.

    A copy of it would cost more than all that is looked up here, and there may be 50,000 at once.
    """
    row.estimated_start_at = _starts_at(row, explain, now)


def _starts_at(row: NewTask, explain: Explain, now: float) -> float | None:
    if row.available_at > now:
        return row.available_at
    if row.hold not in _IN_LINE:
        return None
    foreseen = explain.foresee(row.model, row.queue, row.step, row.due)
    seconds = None if foreseen is None else foreseen.starts_in()
    return None if seconds is None else now + seconds
