"""Note when a task is likely to start, as it looks at its submission: what was told is held against what came."""

from __future__ import annotations

from dataclasses import replace

from app.db.submissions import NewTask
from app.domain.task import Hold
from app.services.ports import Explain

_IN_LINE = (Hold.NONE, Hold.BATCH)  # rows of a batch are let go as soon as all of it is there


def foretell(row: NewTask, explain: Explain, now: float) -> NewTask:
    """The row with its estimated start; where nobody knows, as it is."""
    if row.available_at > now:
        return replace(row, estimated_start_at=row.available_at)
    if row.hold not in _IN_LINE:
        return row
    foreseen = explain.foresee(row.model, row.queue, row.step, row.due)
    seconds = None if foreseen is None else foreseen.starts_in()
    return row if seconds is None else replace(row, estimated_start_at=now + seconds)
