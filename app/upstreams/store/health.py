"""The status of keys and accounts, for the next leader and for those who display it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import orjson
from sqlalchemy import Connection, delete, select

from app.platform.dialects import insert_or
from app.tasks.store.tables import health
from app.upstreams.domain.key_health import KeyStatus, from_facts, to_facts


def load_health(conn: Connection) -> dict[str, KeyStatus]:
    """The status by subject; unreadable rows are skipped."""
    found = {}
    for row in conn.execute(select(health.c.subject, health.c.facts)):
        try:
            found[row.subject] = from_facts(orjson.loads(row.facts))
        except (KeyError, TypeError, ValueError):
            continue
    return found


def save_health(conn: Connection, statuses: Mapping[str, KeyStatus], now: float) -> None:
    """Save statuses, ordered by subject so that two writers cannot deadlock."""
    for subject in sorted(statuses):
        facts = orjson.dumps(to_facts(statuses[subject])).decode()
        row = insert_or(conn, health).values(subject=subject, facts=facts, updated_at=now)
        changed = {"facts": facts, "updated_at": now}
        conn.execute(row.on_conflict_do_update(index_elements=["subject"], set_=changed))


def forget_health(conn: Connection, subjects: Iterable[str]) -> None:
    """Delete what is no longer configured."""
    conn.execute(delete(health).where(health.c.subject.in_(list(subjects))))
