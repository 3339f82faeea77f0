"""Put a claimed callback together: body, signature, the client's own headers."""

from __future__ import annotations

from typing import Any

import orjson

from app.callbacks.domain.callback import SignedCallback
from app.callbacks.domain.callback_event import MAX_RESULT_BYTES, event, with_result_url
from app.callbacks.domain.callback_headers import usable_headers
from app.callbacks.sign_callback import signed_headers, signing_secrets
from app.callbacks.store.callback_subjects import batch_subject, task_subject
from app.callbacks.store.callbacks import ClaimedCallback
from app.platform.database import Database
from app.platform.domain.json_text import one_line
from app.tasks.domain.batch_view import batch_view
from app.tasks.domain.task_view import task_view


def compose_callback(
    database: Database, claimed: ClaimedCallback, public_url: str, now: float
) -> SignedCallback | None:
    """Make one try's parcel; None when what it would tell of is gone. Raises DatabaseUnreachable."""
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


def _data(database: Database, claimed: ClaimedCallback, public_url: str) -> dict[str, Any] | None:
    if claimed.task_id is not None:
        return _task(database, claimed.task_id, public_url)
    return _batch(database, claimed.batch_id or "")


def _task(database: Database, task_id: str, public_url: str) -> dict[str, Any] | None:
    subject = database.read(lambda conn: task_subject(conn, task_id, MAX_RESULT_BYTES))
    if subject is None:
        return None
    row = {**subject.row, "metadata": _parsed(subject.row["metadata"])}
    result = None if subject.result is None else orjson.Fragment(one_line(subject.result))
    # Its own callback is being delivered, whatever the row says at this instant: every try says the same.
    view = task_view(row, result=result, callback_status="delivering")
    return with_result_url(view, public_url) if subject.too_large else view


def _batch(database: Database, batch_id: str) -> dict[str, Any] | None:
    row = database.read(lambda conn: batch_subject(conn, batch_id))
    if row is None:
        return None
    parsed = {**row, "metadata": _parsed(row["metadata"])}
    return batch_view(parsed, errors=_parsed(row["errors"]), callback_status="delivering")


def _parsed(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)
