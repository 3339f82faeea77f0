"""Reading batches: their rows, their results in input order, the lines of their files, and what they used."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from app.tasks.domain.rows import BatchRow, ResultRow
from app.tasks.domain.task import BATCH_ENDS, ENDS, BatchStatus, Status
from app.tasks.store.tables import batch, callback, task, task_content


def get_batch(conn: Connection, client_id: str | None, batch_id: str) -> BatchRow | None:
    """One batch; None when this client (None: any client) has no such batch."""
    found = select(*_columns()).where(batch.c.id == batch_id)
    if client_id is not None:
        found = found.where(batch.c.client_id == client_id)
    row = conn.execute(found).first()
    return None if row is None else _batch(row)


def list_batches(
    conn: Connection, client_id: str | None, after_seq: int | None = None, limit: int = 20
) -> list[BatchRow]:
    """A client's batches (None: all), newest first, those older than `after_seq`."""
    found = select(*_columns()).order_by(batch.c.seq.desc())
    if client_id is not None:
        found = found.where(batch.c.client_id == client_id)
    if after_seq is not None:
        found = found.where(batch.c.seq < after_seq)
    return [_batch(row) for row in conn.execute(found.limit(limit))]


def results(conn: Connection, batch_id: str, after_index: int, limit: int) -> list[ResultRow]:
    """Ended lines after `after_index` (-1: from the first), in input order."""
    others = {"task_id": task.c.id.label("task_id"), "result": task_content.c.result}
    names = [field.name for field in fields(ResultRow)]
    chosen: list[Any] = [others[name] if name in others else task.c[name] for name in names]
    ends: Iterable[Status] = sorted(ENDS)
    found = (
        select(*chosen)
        .join(task_content, task_content.c.seq == task.c.seq)
        .where(task.c.batch_id == batch_id, task.c.batch_index > after_index, task.c.status.in_(ends))
        .where(task.c.replaced_by.is_(None))
        .order_by(task.c.batch_index)
        .limit(limit)
    )
    return [_result(row) for row in conn.execute(found)]


def task_ids(conn: Connection, batch_id: str, limit: int) -> list[str]:
    """The ids of a batch's first tasks, in input order."""
    these = (task.c.batch_id == batch_id) & task.c.replaced_by.is_(None)
    found = select(task.c.id).where(these).order_by(task.c.batch_index).limit(limit)
    return list(conn.execute(found).scalars())


def _columns() -> list[Any]:
    last_callback = select(callback.c.status).where(
        callback.c.batch_id == batch.c.id, callback.c.task_id.is_(None)
    )
    last = last_callback.order_by(callback.c.seq.desc()).limit(1).scalar_subquery().label("callback_status")
    return [*(batch.c[field.name] for field in fields(BatchRow)[:-1]), last]


def _batch(row: Row[Any]) -> BatchRow:
    return BatchRow(**{**row._asdict(), "status": BatchStatus(row.status)})


def _result(row: Row[Any]) -> ResultRow:
    return ResultRow(**{**row._asdict(), "status": Status(row.status)})


SUCCESSES = (Status.SUCCEEDED,)
FAILURES = (Status.FAILED, Status.EXPIRED, Status.CANCELLED)


@dataclass(frozen=True, slots=True)
class LineRow:
    """An ended line. `result` is JSON text."""

    batch_index: int
    task_id: str
    custom_id: str | None
    status: Status
    result: str | None
    error_code: str | None
    error_type: str | None
    error_message: str | None
    avoid: str | None  # JSON array of notes


@dataclass(frozen=True, slots=True)
class InputRow:
    """A line as submitted. `request` is JSON text, without `model`."""

    batch_index: int
    custom_id: str | None
    model: str
    request: str | None


def ended_lines(
    conn: Connection, batch_id: str, statuses: Collection[Status], after_index: int, limit: int
) -> list[LineRow]:
    """Lines after `after_index` (-1: from the first) that ended in one of these states."""
    names = [field.name for field in fields(LineRow)]
    found = _lines(batch_id, after_index, names).where(
        task.c.status.in_([status.value for status in statuses])
    )
    rows = conn.execute(found.order_by(task.c.batch_index).limit(limit))
    return [LineRow(**{**row._asdict(), "status": Status(row.status)}) for row in rows]


def input_lines(conn: Connection, batch_id: str, after_index: int, limit: int) -> list[InputRow]:
    """Lines after `after_index` as submitted."""
    names = [field.name for field in fields(InputRow)]
    found = _lines(batch_id, after_index, names).order_by(task.c.batch_index).limit(limit)
    return [InputRow(**row._asdict()) for row in conn.execute(found)]


def _lines(batch_id: str, after_index: int, names: Collection[str]) -> Any:
    others = {
        "task_id": task.c.id.label("task_id"),
        "result": task_content.c.result,
        "request": task_content.c.request,
    }
    chosen: list[Any] = [others[name] if name in others else task.c[name] for name in names]
    return (
        select(*chosen)
        .join(task_content, task_content.c.seq == task.c.seq)
        .where(task.c.batch_id == batch_id, task.c.batch_index > after_index, task.c.replaced_by.is_(None))
    )


_TOKENS = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")


@dataclass(frozen=True, slots=True)
class BatchTokens:
    """Sums over all tasks; cost in pico-units, None where it has no single sum."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost_picos: int | None
    currency: str | None


def sum_usage(conn: Connection, batch_id: str) -> BatchTokens:
    """The usage of a batch, tasks that were run again included."""
    tokens = [func.coalesce(func.sum(task.c[name]), 0).label(name) for name in _TOKENS]
    money = [
        func.sum(task.c.cost_picos).label("cost"),
        func.count(func.distinct(task.c.currency)).label("currencies"),
        func.max(task.c.currency).label("currency"),
    ]
    row = conn.execute(select(*tokens, *money).where(task.c.batch_id == batch_id)).one()
    one = row.currencies == 1 and row.cost is not None
    sums = {name: int(getattr(row, name)) for name in _TOKENS}
    return BatchTokens(
        **sums, cost_picos=int(row.cost) if one else None, currency=row.currency if one else None
    )


def store_usage(conn: Connection, batch_id: str, usage: str) -> None:
    """Store the sums of an ended batch; `usage` is JSON text."""
    ended = batch.c.status.in_([status.value for status in BATCH_ENDS])
    conn.execute(update(batch).where(batch.c.id == batch_id, ended).values(usage=usage))


_RECENT_TASKS = 20_000  # of all clients, in which answers are looked for
_RECENT_ANSWERS = 200


@dataclass(frozen=True, slots=True)
class RecentAnswers:
    """What a client's latest answers of a model came to, together. `cost_picos` None: no single sum."""

    answers: int
    prompt_tokens: int
    completion_tokens: int
    cost_picos: int | None
    currency: str | None


def recent_answers(conn: Connection, client_id: str, model: str) -> RecentAnswers:
    """The client's latest answers of a model that an upstream gave, up to 200."""
    newest = select(func.max(task.c.seq) - _RECENT_TASKS).scalar_subquery()
    mine = (task.c.client_id == client_id) & (task.c.model == model) & (task.c.seq > newest)
    given = (
        (task.c.status == Status.SUCCEEDED)
        & task.c.completion_tokens.is_not(None)
        & task.c.prompt_tokens.is_not(None)
        & ~task.c.cached
        & ~task.c.coalesced
    )
    columns = (task.c.prompt_tokens, task.c.completion_tokens, task.c.cost_picos, task.c.currency)
    latest = select(*columns).where(mine, given).order_by(task.c.seq.desc()).limit(_RECENT_ANSWERS).subquery()
    row = conn.execute(
        select(
            func.count().label("answers"),
            func.coalesce(func.sum(latest.c.prompt_tokens), 0).label("prompt"),
            func.coalesce(func.sum(latest.c.completion_tokens), 0).label("completion"),
            func.sum(latest.c.cost_picos).label("cost"),
            func.count(latest.c.cost_picos).label("priced"),
            func.count(func.distinct(latest.c.currency)).label("currencies"),
            func.max(latest.c.currency).label("currency"),
        )
    ).one()
    one = row.currencies == 1 and row.priced == row.answers
    return RecentAnswers(
        int(row.answers),
        int(row.prompt),
        int(row.completion),
        int(row.cost) if one else None,
        row.currency if one else None,
    )
