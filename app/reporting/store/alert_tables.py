"""Alerts, who watches them, how machines fare, how channels fare. Instants are Unix seconds."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Double, Integer, Table, Text, text

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
    Column("told", Boolean, nullable=False, server_default=text("false")),  # its channels know that it fires
    Column("unsure", Boolean, nullable=False, server_default=text("false")),  # a message was begun, not noted
)

alert_watch = Table(
    "alert_watch",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # 1: one process watches
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
