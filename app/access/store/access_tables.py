"""Budgets, policies, the audit log. Instants are Unix seconds, money pico-units, documents JSON text."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, Table, Text, text

from app.tasks.store.tables import Serial, metadata, partial

UNCHAINED = "number IS NULL"

budget_use = Table(
    "budget_use",
    metadata,
    Column("client_id", Text, primary_key=True),
    Column("period", Text, primary_key=True),  # 2026-11-21 or 2026-11, UTC
    Column("tokens", BigInteger, nullable=False, server_default=text("0")),  # used and reserved
    Column("picos", BigInteger, nullable=False, server_default=text("0")),
)

policy = Table(
    "policy",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("document", Text, nullable=False),  # JSON
    Column("created_at", Double, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("at_ms", BigInteger, nullable=False),  # Unix milliseconds
    *(
        Column(name, Text, nullable=False, server_default=text("''"))
        for name in (
            "action",
            "client_id",
            "team",
            "user",
            "key_id",
            "address",
            "model",
            "task_id",
            "request_id",
        )
    ),
    Column("status", Integer, nullable=False, server_default=text("0")),
    Column("duration_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("details", Text, nullable=False, server_default=text("''")),  # JSON
    Column("number", BigInteger),  # its place in the chain; null: not yet linked
    Column("digest", Text),
    partial("ix_audit_unchained", "seq", where=UNCHAINED),  # keep_audit
    Index(None, "number"),
    Index(None, "at_ms"),
    Index(None, "client_id", "at_ms"),
)

ended_session = Table(  # signed out before its time: copies of its cookie are worth nothing
    "ended_session",
    metadata,
    Column("id", Text, primary_key=True),
    Column("ended_at", Double, nullable=False),
)

audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # 1: there is one chain
    Column("number", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    Column("first", BigInteger, nullable=False),
    Column("before", Text, nullable=False),  # the digest that the first one kept follows
)
