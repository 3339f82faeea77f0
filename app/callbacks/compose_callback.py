"""What a callback carries: the row it is about, as JSON, with its signature and the client's own headers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import orjson
from sqlalchemy import Connection, Integer, Row, Select, bindparam, case, select
from standardwebhooks.webhooks import Webhook

from app.callbacks.domain.callback import (
    MAX_RESULT_BYTES,
    SignedCallback,
    event,
    usable_headers,
    with_result_url,
)
from app.callbacks.store.callbacks import ClaimedCallback
from app.platform.database import Database
from app.platform.dialects import byte_length
from app.tasks.store.tables import batch, task, task_content
from app.tasks.views import Batch, batch_view, task_view


def signing_secrets(claimed: ClaimedCallback, now: float) -> list[str]:
    """The client's secret, and the previous one while both are valid."""
    secrets = [claimed.secret]
    if claimed.previous_secret is not None and now < (claimed.previous_until or 0.0):
        secrets.append(claimed.previous_secret)
    return secrets


def signed_headers(callback_id: str, body: bytes, secrets: Sequence[str], now: float) -> dict[str, str]:
    """The three Standard Webhooks headers; the signature has one part for each secret. `now`: Unix seconds."""
    at = math.floor(now)
    moment = datetime.fromtimestamp(at, UTC)
    text = body.decode()
    signatures = (Webhook(secret).sign(callback_id, moment, text) for secret in secrets)
    return {
        "webhook-id": callback_id,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(signatures),
    }


@dataclass(frozen=True, slots=True)
class TaskSubject:
    """A task's row, and its result as JSON text unless that is `too_large`."""

    row: Row[Any]
    result: str | None
    too_large: bool


def task_subject(conn: Connection, task_id: str, most_bytes: int) -> TaskSubject | None:
    """Read a task, with its result up to `most_bytes`; None if there is no such task."""
    values = {"which": task_id, "most": most_bytes}
    row = conn.execute(_task_statement(), values).first()
    return None if row is None else TaskSubject(row, row.small_result, bool(row.too_large))


def batch_subject(conn: Connection, batch_id: str) -> Row[Any] | None:
    """Read a batch's row; None if there is no such batch."""
    return conn.execute(_BATCH, {"which": batch_id}).first()


_BATCH = select(batch).where(batch.c.id == bindparam("which"))


@cache
def _task_statement() -> Select[Any]:
    size, most = byte_length(task_content.c.result), bindparam("most", type_=Integer())
    small = case((size <= most, task_content.c.result))
    return (
        select(task, small.label("small_result"), (size > most).label("too_large"))
        .outerjoin(task_content, task_content.c.seq == task.c.seq)
        .where(task.c.id == bindparam("which"))
    )


def compose_callback(
    database: Database, claimed: ClaimedCallback, public_url: str, now: float
) -> SignedCallback | None:
    """Sign one try of a callback; None if its task or batch no longer exists. Raises DatabaseUnreachable."""
    data = _data(database, claimed, public_url)
    if data is None:
        return None
    body = orjson.dumps(event(claimed.id, claimed.type, claimed.created_at, data))
    headers = {
        **usable_headers(claimed.headers),
        "Content-Type": "application/json",
        **signed_headers(claimed.id, body, signing_secrets(claimed, now), now),
    }
    return SignedCallback(claimed.url, headers, body)


def _data(database: Database, claimed: ClaimedCallback, public_url: str) -> Any:
    if claimed.task_id is not None:
        return _task(database, claimed.task_id, public_url)
    return _batch(database, claimed.batch_id or "")


def _task(database: Database, task_id: str, public_url: str) -> Any:
    subject = database.read(lambda conn: task_subject(conn, task_id, MAX_RESULT_BYTES))
    if subject is None:
        return None
    # Every try must say the same, whatever the row says at this instant: its callback is being delivered.
    view = task_view(subject.row, result=subject.result, callback_status="delivering")
    return with_result_url(vars(view), public_url) if subject.too_large else view


def _batch(database: Database, batch_id: str) -> Batch | None:
    row = database.read(lambda conn: batch_subject(conn, batch_id))
    return None if row is None else batch_view(row, callback_status="delivering")
