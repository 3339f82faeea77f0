"""Which prompts a client asks most often: what is worth asking before it is asked."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from app.tasks.store.tables import task, task_content


@dataclass(frozen=True, slots=True)
class FrequentRequest:
    """A request and how often it came."""

    model: str
    request: str  # JSON text, without `model`
    times: int


def most_asked(conn: Connection, client_id: str, since: float, limit: int) -> list[FrequentRequest]:
    """The requests of a client's own scope that came at least twice since an instant, the most frequent first.

    Those whose content was erased are left out.
    """
    count = func.count().label("times")
    mine = (task.c.client_id == client_id) & (task.c.created_at >= since)
    own = task.c.cache_key.startswith(f"client:{client_id}:", autoescape=True)
    keys = select(func.max(task.c.seq).label("last"), count).where(mine, own).group_by(task.c.cache_key)
    often = keys.having(count > 1).order_by(count.desc(), func.max(task.c.seq).desc()).limit(limit).subquery()
    found = select(task.c.model, task_content.c.request, often.c.times)
    found = found.join(often, often.c.last == task.c.seq).join(task_content, task_content.c.seq == task.c.seq)
    rows = conn.execute(found.order_by(often.c.times.desc(), task.c.seq.desc()))
    return [FrequentRequest(row.model, row.request, row.times) for row in rows if row.request]
