"""Callback rows, written in the transaction that makes them due."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from app.platform.bulk import insert_rows
from app.tasks.domain.task import new_id
from app.tasks.store.tables import callback

_COLUMNS = ("id", "client_id", "task_id", "batch_id", "type", "url", "status", "next_at", "created_at")


@dataclass(frozen=True, slots=True)
class News:
    """Something to tell a client: `type` is task.succeeded, batch.completed and the like."""

    client_id: str
    type: str
    url: str
    at: float
    task_id: str | None = None
    batch_id: str | None = None


def write_callbacks(conn: Connection, news: Sequence[News]) -> list[str]:
    """Write a pending callback for each, due at once; gives back their ids in order."""
    ids = [new_id("evt", item.at) for item in news]
    if news:
        rows = (
            (
                name,
                item.client_id,
                item.task_id,
                item.batch_id,
                item.type,
                item.url,
                "pending",
                item.at,
                item.at,
            )
            for name, item in zip(ids, news, strict=True)
        )
        insert_rows(conn, callback, _COLUMNS, rows)
    return ids
