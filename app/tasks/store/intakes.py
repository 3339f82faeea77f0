"""Batches that never came in whole: their rows are taken back."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select, text

from app.tasks.domain.batch import BatchStatus
from app.tasks.store.locks import lock_batches
from app.tasks.store.tables import INTAKE, batch, task, task_content


def stale_intakes(conn: Connection, before: float, limit: int) -> list[str]:
    """Batches in state `validating` that were created before that instant: whoever took them in has died.

    Those over files are not among them: their intake begins anew (`file_batches`).
    """
    old = select(batch.c.id).where(text(INTAKE), batch.c.created_at < before, batch.c.input_file_id.is_(None))
    return list(conn.execute(old.order_by(batch.c.created_at).limit(limit)).scalars())


def discard_intake(conn: Connection, batch_id: str, limit: int) -> bool:
    """Delete up to `limit` rows of a batch in state `validating`, and it with the last of them.

    Gives back whether there are more; call it again then, in another transaction. Other batches are left alone.
    """
    row = lock_batches(conn, [batch_id]).get(batch_id)
    if row is None or row.status != BatchStatus.VALIDATING:
        return False
    some = select(task.c.seq).where(task.c.batch_id == batch_id).order_by(task.c.batch_index).limit(limit)
    numbers = list(conn.execute(some).scalars())
    if numbers:
        conn.execute(delete(task_content).where(task_content.c.seq.in_(numbers)))
        conn.execute(delete(task).where(task.c.seq.in_(numbers)))
    if len(numbers) == limit:
        return True
    conn.execute(delete(batch).where(batch.c.id == batch_id))
    return False
