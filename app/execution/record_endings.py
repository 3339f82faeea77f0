"""Record what attempts came to: those from which nothing follows in one statement, all others the longer way."""

from __future__ import annotations

from collections.abc import Sequence

from app.execution.store.endings import end
from app.execution.store.fast_finish import Held, end_plainly, has_no_side_effects, held_by
from app.platform.database import Database
from app.tasks.domain.attempt import AttemptEnd, Recorded


def record_endings(database: Database, endings: Sequence[AttemptEnd]) -> list[Recorded]:
    """Record and commit; gives back, in order, which of them still held their row.

    1. Where nothing follows from any of them, end those whose rows stand as they were claimed.
    2. What is left goes the longer way, which also finds what was recorded before. Raises DatabaseUnreachable.
    """
    recorded: dict[Held, Recorded] = {}
    if database.dialect == "postgresql" and all(map(has_no_side_effects, endings)):
        recorded = database.write_single(lambda conn: end_plainly(conn, endings))
    left = [ending for ending in endings if held_by(ending) not in recorded]
    if left:
        others = database.write(lambda conn: end(conn, left))
        recorded |= {held_by(ending): one for ending, one in zip(left, others, strict=True)}
    return [recorded[held_by(ending)] for ending in endings]
