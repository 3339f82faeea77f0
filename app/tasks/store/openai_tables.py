"""Tables behind the OpenAI-compatible endpoints: files, chat calls that somebody waits for, who holds connections.

Instants are Unix seconds, bodies JSON text.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, Table, Text, text

from app.platform.encryption import SealedBytes
from app.tasks.store.tables import Serial, metadata, partial

UNSETTLED = "status IN ('uploading', 'deleted')"
PERISHABLE = "expires_at IS NOT NULL"
ABANDONED = "abandon_at IS NOT NULL"

file = Table(
    "file",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),  # file_...
    Column("client_id", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("status", Text, nullable=False),  # uploading, processed, deleted (its chunks follow)
    Column("bytes", BigInteger),  # null: rendered from a batch's rows, and never measured yet
    Column("batch_id", Text),  # whose output this is
    Column("kind", Text),  # output, errors; null: uploaded
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Index(None, "client_id", "seq"),
    Index(None, "batch_id"),
    partial("ix_file_unsettled", "seq", where=UNSETTLED),  # clean_up
    partial("ix_file_perishable", "expires_at", where=PERISHABLE),  # clean_up
)

file_chunk = Table(
    "file_chunk",
    metadata,
    Column("file_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),  # from 0
    Column("data", SealedBytes, nullable=False),  # 1 MiB; the last one less
)

waiting_call = Table(
    "waiting_call",
    metadata,
    Column("task_id", Text, primary_key=True),
    Column("client_id", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),  # SHA-256 of API key and body
    Column("connection", Text),  # the request that waits for it; null: it is gone, and a repeat may attach
    Column("holder", Text),  # the process that has the connection
    Column("abandon_at", Double),  # when the task is given up, its connection being gone
    Column("created_at", Double, nullable=False),
    Index(None, "client_id", "fingerprint"),
    Index(None, "holder"),
    partial("ix_waiting_call_abandoned", "abandon_at", where=ABANDONED),  # abandon_calls
)

holder = Table(
    "holder",
    metadata,
    Column(
        "id", Text, primary_key=True
    ),  # an incarnation of a process that has connections or takes files in
    Column("beat", BigInteger, nullable=False, server_default=text("0")),  # counts up
    Column("beat_at", Double, nullable=False),  # for people to read
)
