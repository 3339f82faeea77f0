"""The status of keys and accounts, for the next leader and for those who display it; and learned fixes of requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import quote, unquote

import orjson
from sqlalchemy import Connection, delete, select

from app.platform.dialects import insert_or
from app.tasks.store.tables import health
from app.upstreams.domain.key_health import KeyStatus, from_facts, to_facts
from app.upstreams.domain.request_parameters import ParameterFix, read_fix

_FIX = "fix:"  # fix:<upstream>:<model>:<note>


def load_health(conn: Connection) -> dict[str, KeyStatus]:
    """The status by subject; unreadable rows are skipped."""
    found = {}
    of_keys = select(health.c.subject, health.c.facts).where(~health.c.subject.startswith(_FIX))
    for row in conn.execute(of_keys):
        try:
            found[row.subject] = from_facts(orjson.loads(row.facts))
        except (KeyError, TypeError, ValueError):
            continue
    return found


def save_health(conn: Connection, statuses: Mapping[str, KeyStatus], now: float) -> None:
    """Save statuses, ordered by subject so that two writers cannot deadlock."""
    for subject in sorted(statuses):
        _save(conn, subject, orjson.dumps(to_facts(statuses[subject])).decode(), now)


def _save(conn: Connection, subject: str, facts: str, now: float) -> None:
    row = insert_or(conn, health).values(subject=subject, facts=facts, updated_at=now)
    changed = {"facts": facts, "updated_at": now}
    conn.execute(row.on_conflict_do_update(index_elements=["subject"], set_=changed))


def forget_health(conn: Connection, subjects: Iterable[str]) -> None:
    """Delete what is no longer configured."""
    conn.execute(delete(health).where(health.c.subject.in_(list(subjects))))


def load_fixes(conn: Connection, since: float) -> dict[tuple[str, str], list[ParameterFix]]:
    """Fixes learned since then, by upstream and its name of the model; older ones first."""
    found: dict[tuple[str, str], list[ParameterFix]] = {}
    learned = select(health.c.subject).where(health.c.subject.startswith(_FIX), health.c.updated_at >= since)
    for row in conn.execute(learned.order_by(health.c.updated_at)):
        _, upstream, model, note = row.subject.split(":", 3)
        if (fix := read_fix(note)) is not None:
            found.setdefault((unquote(upstream), unquote(model)), []).append(fix)
    return found


def save_fixes(conn: Connection, place: tuple[str, str], fixes: Iterable[ParameterFix], now: float) -> None:
    """Remember fixes of an upstream and its name of a model."""
    upstream, model = (quote(name, safe="") for name in place)
    for note in sorted(map(str, fixes)):
        _save(conn, f"{_FIX}{upstream}:{model}:{note}", "{}", now)
