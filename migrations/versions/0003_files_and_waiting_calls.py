"""Files in chunks, chat calls that somebody waits for, batches over files.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_OF_BATCH = ("model", "output_file_id", "error_file_id", "usage", "taker")


def upgrade() -> None:
    """Add what the OpenAI-compatible endpoints need."""
    op.add_column("task", sa.Column("replaced_by", sa.Text))
    op.add_column("task", sa.Column("stream", sa.Boolean, nullable=False, server_default=sa.text("false")))
    for name in _OF_BATCH:
        op.add_column("batch", sa.Column(name, sa.Text))
    op.add_column("batch", sa.Column("output_expires_seconds", sa.Double))
    _make_file()
    _make_file_chunk()
    _make_waiting_call()
    _make_holder()


def downgrade() -> None:
    """Take it back; files are lost."""
    for table in ("holder", "waiting_call", "file_chunk", "file"):
        op.drop_table(table)
    for name in ("output_expires_seconds", *_OF_BATCH):
        op.drop_column("batch", name)
    for name in ("stream", "replaced_by"):
        op.drop_column("task", name)


def _make_file() -> None:
    serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "file",
        sa.Column("seq", serial, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("bytes", sa.BigInteger),
        sa.Column("batch_id", sa.Text),
        sa.Column("kind", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.PrimaryKeyConstraint("seq", name="pk_file"),
        sa.UniqueConstraint("id", name="uq_file_id"),
    )
    op.create_index("ix_file_client_id_seq", "file", ["client_id", "seq"])
    op.create_index("ix_file_batch_id", "file", ["batch_id"])
    _partial("ix_file_unsettled", "file", "seq", "status IN ('uploading', 'deleted')")
    _partial("ix_file_perishable", "file", "expires_at", "expires_at IS NOT NULL")


def _make_file_chunk() -> None:
    op.create_table(
        "file_chunk",
        sa.Column("file_seq", sa.BigInteger, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("file_seq", "number", name="pk_file_chunk"),
    )


def _make_waiting_call() -> None:
    op.create_table(
        "waiting_call",
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("connection", sa.Text),
        sa.Column("holder", sa.Text),
        sa.Column("abandon_at", sa.Double),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("task_id", name="pk_waiting_call"),
    )
    op.create_index("ix_waiting_call_client_id_fingerprint", "waiting_call", ["client_id", "fingerprint"])
    op.create_index("ix_waiting_call_holder", "waiting_call", ["holder"])
    _partial("ix_waiting_call_abandoned", "waiting_call", "abandon_at", "abandon_at IS NOT NULL")


def _make_holder() -> None:
    op.create_table(
        "holder",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("beat_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_holder"),
    )


def _partial(name: str, table: str, column: str, where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, [column], postgresql_where=condition, sqlite_where=condition)
