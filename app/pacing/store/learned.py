"""What the dispatcher has learned of quotas, kept for its successor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import Connection, select

from app.platform.dialects import insert_or
from app.tasks.store.tables import learned


def load_learned(conn: Connection) -> dict[str, dict[str, Any]]:
    """All figures by quota; what cannot be read is left out."""
    found = {}
    for row in conn.execute(select(learned.c.quota, learned.c.figures)):
        try:
            found[row.quota] = orjson.loads(row.figures)
        except orjson.JSONDecodeError:
            continue
    return found


def save_learned(conn: Connection, figures: Mapping[str, Mapping[str, Any]], now: float) -> None:
    """Write figures down, in the order of their quotas so that two writers never wait crosswise."""
    for quota in sorted(figures):
        values = {"quota": quota, "figures": orjson.dumps(figures[quota]).decode(), "updated_at": now}
        statement = insert_or(conn, learned).values(values)
        changed = {"figures": values["figures"], "updated_at": now}
        conn.execute(statement.on_conflict_do_update(index_elements=["quota"], set_=changed))
