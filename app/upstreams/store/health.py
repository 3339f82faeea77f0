"""How keys and accounts stand, kept for the next leader and for whoever looks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import orjson
from sqlalchemy import Connection, delete, select

from app.platform.dialects import insert_or
from app.tasks.store.tables import health
from app.upstreams.domain.key_health import KeyStatus, from_facts, to_facts


def load_health(conn: Connection) -> dict[str, KeyStatus]:
    """All by subject; what cannot be read is left out."""
    found = {}
    for row in conn.execute(select(health.c.subject, health.c.facts)):
        try:
            found[row.subject] = from_facts(orjson.loads(row.facts))
        except (KeyError, TypeError, ValueError):
            continue
    return found


def save_health(conn: Connection, standings: Mapping[str, KeyStatus], now: float) -> None:
    """Write some down, in the order of their subjects so that two writers never wait crosswise."""
    for subject in sorted(standings):
        facts = orjson.dumps(to_facts(standings[subject])).decode()
        row = insert_or(conn, health).values(subject=subject, facts=facts, updated_at=now)
        changed = {"facts": facts, "updated_at": now}
        conn.execute(row.on_conflict_do_update(index_elements=["subject"], set_=changed))


def forget_health(conn: Connection, subjects: Iterable[str]) -> None:
    """What belongs to nothing that is configured any more."""
    conn.execute(delete(health).where(health.c.subject.in_(list(subjects))))
