"""Measuring the database: round trips, version, clock, schema, who beats."""

from __future__ import annotations

import time
from pathlib import Path

from sqlalchemy import Connection, func, select, text

from app.diagnosis.domain.doctor_service import DatabaseFigures
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.engines import parse_url, translated
from app.platform.migrate import connected, head_is_current
from app.tasks.store.tables import worker

_TRIPS = 10
ALIVE_SECONDS = 30.0  # a worker beats every 10


def measure(url: str) -> DatabaseFigures:
    """Round trips and version. `error` says, without the URL, why there is no answer."""
    kind = "unknown"
    try:
        kind = parse_url(url).get_backend_name()
        if kind == "sqlite" and not Path(parse_url(url).database or "").exists():
            return DatabaseFigures(kind, error="its file is not there; penstock db upgrade makes it")
        current = head_is_current(url)
        with translated(), connected(url) as connection:
            return _measured(connection, kind, current)
    except DatabaseUnreachable:
        return DatabaseFigures(kind, error="does not answer")
    except ValueError as error:  # its words hold no password
        return DatabaseFigures(kind, error=str(error))


def alive(conn: Connection, now: float) -> int:
    """Workers whose beat is young."""
    rows = (
        select(func.count())
        .select_from(worker)
        .where(worker.c.ended_at.is_(None), worker.c.beat_at >= now - ALIVE_SECONDS)
    )
    return int(conn.execute(rows).scalar_one())


def _measured(connection: Connection, kind: str, current: bool) -> DatabaseFigures:
    seconds = []
    for _ in range(_TRIPS):
        began = time.monotonic()
        connection.execute(text("SELECT 1")).scalar_one()
        seconds.append(time.monotonic() - began)
    if kind == "sqlite":
        version = str(connection.execute(text("SELECT sqlite_version()")).scalar_one())
        return DatabaseFigures(kind, tuple(seconds), version, None, current)
    version = str(connection.execute(text("SHOW server_version")).scalar_one())
    before = time.time()
    theirs = float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
    return DatabaseFigures(kind, tuple(seconds), version, (before + time.time()) / 2 - theirs, current)
