"""Alerts, their watcher, machine vitals and channel status as rows. One process writes alerts. Unix seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Integer,
    Table,
    Text,
    delete,
    insert,
    select,
    text,
    update,
)

from app.platform.dialects import insert_or
from app.reporting.domain.alerts import Alert, AlertState, Channel, Place
from app.settings.domain.alert_rules import Severity
from app.tasks.store.tables import metadata

alert = Table(
    "alert",
    metadata,
    Column("rule", Text, primary_key=True),
    Column("subject", Text, primary_key=True),  # a key, a client, a host; empty: the whole service
    Column("severity", Text, nullable=False),
    Column("state", Text, nullable=False),  # pending, firing, resolved
    Column("since", Double, nullable=False),
    Column("value", Double, nullable=False),
    Column("told", Boolean, nullable=False, server_default=text("false")),  # its channels were notified
    Column(
        "unsure", Boolean, nullable=False, server_default=text("false")
    ),  # a message was started, its result not recorded
)

alert_watch = Table(
    "alert_watch",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # always 1: one process watches
    Column("watcher", Text, nullable=False),
    Column("beat", BigInteger, nullable=False),  # counts up while it does
)

alert_channel = Table(
    "alert_channel",
    metadata,
    Column("name", Text, primary_key=True),  # warning 1, heartbeat ...
    Column("tried_at", Double, nullable=False),
    Column("error", Text),  # null: the last try arrived
)

vital = Table(
    "vital",
    metadata,
    Column("process", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("cpu", Double, nullable=False),  # busy part of the machine
    Column("requests", Double, nullable=False),  # answered over HTTP a second
    Column("at", Double, nullable=False),
)


_ONE = 1
FRESH_SECONDS = 45.0  # for which a process's vitals are valid
_FORGET_SECONDS = 3600.0


def watcher(conn: Connection) -> tuple[str, int]:
    """The watcher and its heartbeat; ("", 0) if there never was one."""
    row = conn.execute(select(alert_watch.c.watcher, alert_watch.c.beat)).first()
    return (row.watcher, row.beat) if row else ("", 0)


def watch(conn: Connection, me: str, seen: tuple[str, int]) -> bool:
    """Take or renew the watch, if it is unchanged since `seen`."""
    if seen == ("", 0):
        values = {"id": _ONE, "watcher": me, "beat": 1}
        row = insert_or(conn, alert_watch).values(values).on_conflict_do_nothing()
        if conn.execute(row.returning(alert_watch.c.id)).first() is not None:
            return True
    same = (alert_watch.c.watcher == seen[0]) & (alert_watch.c.beat == seen[1])
    changed = update(alert_watch).where(same).values(watcher=me, beat=alert_watch.c.beat + 1)
    return conn.execute(changed).rowcount == 1


def leave_watch(conn: Connection, me: str) -> None:
    """Release the watch, so that another process can take it immediately."""
    conn.execute(delete(alert_watch).where(alert_watch.c.watcher == me))


def load_alerts(conn: Connection) -> dict[Place, Alert]:
    """All of them."""
    found = {}
    for row in conn.execute(select(alert)):
        severity, state = Severity(row.severity), AlertState(row.state)
        one = Alert(row.rule, row.subject, severity, state, row.since, row.value, row.told, row.unsure)
        found[one.place] = one
    return found


def save_alerts(conn: Connection, before: Mapping[Place, Alert], after: Mapping[Place, Alert]) -> None:
    """Write the changes."""
    for place in before.keys() - after.keys():
        conn.execute(delete(alert).where(alert.c.rule == place[0], alert.c.subject == place[1]))
    for place, one in after.items():
        if before.get(place) == one:
            continue
        values = {
            "severity": one.severity.value,
            "state": one.state.value,
            "since": one.since,
            "value": one.value,
            "told": one.notified,
            "unsure": one.unsure,
        }
        if place in before:
            mine = (alert.c.rule == one.rule) & (alert.c.subject == one.subject)
            conn.execute(update(alert).where(mine).values(values))
        else:
            conn.execute(insert(alert).values(rule=one.rule, subject=one.subject, **values))


def note_channels(conn: Connection, channels: Iterable[Channel]) -> None:
    """Record the results of channels."""
    for one in channels:
        values = {"name": one.name, "tried_at": one.tried_at, "error": one.error}
        row = insert_or(conn, alert_channel).values(values)
        changed = {"tried_at": one.tried_at, "error": one.error}
        conn.execute(row.on_conflict_do_update(index_elements=["name"], set_=changed))


def load_channels(conn: Connection) -> list[Channel]:
    """The last result of each channel, by name."""
    return [Channel(*row) for row in conn.execute(select(alert_channel).order_by(alert_channel.c.name))]


def note_vitals(conn: Connection, process: str, host: str, cpu: float, requests: float, at: float) -> None:
    """Record the vitals of a process and its machine."""
    values = {"host": host, "cpu": cpu, "requests": requests, "at": at}
    row = insert_or(conn, vital).values(process=process, **values)
    conn.execute(row.on_conflict_do_update(index_elements=["process"], set_=values))


def load_vitals(conn: Connection, now: float) -> tuple[dict[str, float], float]:
    """CPU use by machine, and HTTP requests per second of all processes, from recent reports."""
    cpu: dict[str, float] = {}
    requests = 0.0
    for row in conn.execute(select(vital).where(vital.c.at >= now - FRESH_SECONDS)):
        cpu[row.host] = max(cpu.get(row.host, 0.0), row.cpu)
        requests += row.requests
    return cpu, requests


def forget_vitals(conn: Connection, now: float) -> None:
    """Delete the vitals of processes that ended."""
    conn.execute(delete(vital).where(vital.c.at < now - _FORGET_SECONDS))
