"""What a rehearsal takes from the running service. Reads for an operator who plans, not for every second."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select, text

from app.tasks.store.tables import QUEUED, attempt, task


@dataclass(frozen=True, slots=True)
class WaitingRows:
    """Tasks of one list that wait, for whatever reason."""

    model: str
    client_id: str
    step: int
    tasks: int
    estimate: float  # mean tokens


@dataclass(frozen=True, slots=True)
class CallRow:
    """An upstream call that ended."""

    key: str
    upstream_model: str
    outcome: str
    seconds: float
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None


def waiting_rows(conn: Connection) -> list[WaitingRows]:
    """Everything that is queued, by model, client and priority."""
    groups = (task.c.model, task.c.client_id, task.c.step)
    found = select(*groups, func.count(), func.avg(task.c.estimate)).where(text(QUEUED)).group_by(*groups)
    rows = conn.execute(found.order_by(*groups))
    return [WaitingRows(row[0], row[1], row[2], row[3], float(row[4])) for row in rows]


def latest_calls(conn: Connection, limit: int) -> list[CallRow]:
    """The newest ended calls."""
    seconds = attempt.c.finished_at - attempt.c.started_at
    columns = (attempt.c.key, attempt.c.upstream_model, attempt.c.outcome, seconds)
    tokens = (attempt.c.prompt_tokens, attempt.c.completion_tokens, attempt.c.cached_tokens)
    found = select(*columns, *tokens).order_by(attempt.c.seq.desc()).limit(limit)
    return [CallRow(*row) for row in conn.execute(found)]
