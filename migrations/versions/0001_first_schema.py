"""The first schema.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make every table."""
    _make_attempt()
    _make_batch()
    _make_callback()
    _make_client()
    _make_delivery()
    _make_idempotency()
    _make_learned()
    _make_task()
    _make_task_content()
    _make_worker()
    _make_api_key()


def downgrade() -> None:
    """Drop every table."""
    for name in (
        "api_key",
        "worker",
        "task_content",
        "task",
        "learned",
        "idempotency",
        "delivery",
        "client",
        "callback",
        "batch",
        "attempt",
    ):
        op.drop_table(name)


def _serial() -> TypeEngine[int]:
    """SQLite numbers rows only in a column of type INTEGER."""
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _index(name: str, table: str, *columns: str, where: str | None = None) -> None:
    condition = sa.text(where) if where is not None else None
    op.create_index(name, table, columns, postgresql_where=condition, sqlite_where=condition)


def _make_attempt() -> None:
    op.create_table(
        "attempt",
        sa.Column("seq", _serial(), autoincrement=True, nullable=False),
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("release", sa.BigInteger, nullable=False),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("upstream_model", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("counted", sa.Boolean, nullable=False),
        sa.Column("status_code", sa.Integer),
        sa.Column("error_message", sa.Text),
        sa.Column("upstream_request_id", sa.Text),
        sa.Column("released_at", sa.Double),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("first_byte_at", sa.Double),
        sa.Column("finished_at", sa.Double, nullable=False),
        sa.Column("prompt_tokens", sa.Integer),
        sa.Column("completion_tokens", sa.Integer),
        sa.Column("cached_tokens", sa.Integer),
        sa.Column("reasoning_tokens", sa.Integer),
        sa.Column("cost_micros", sa.BigInteger),
        sa.Column("currency", sa.Text),
        sa.PrimaryKeyConstraint("seq", name="pk_attempt"),
    )
    _index("ix_attempt_task_id_seq", "attempt", "task_id", "seq")


def _make_batch() -> None:
    op.create_table(
        "batch",
        sa.Column("seq", _serial(), autoincrement=True, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("total", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("completed", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("failed", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("cancelled", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("batch_size", sa.Integer),
        sa.Column("callback_url", sa.Text),
        sa.Column("metadata", sa.Text),
        sa.Column("endpoint", sa.Text),
        sa.Column("input_file_id", sa.Text),
        sa.Column("completion_window", sa.Text),
        sa.Column("errors", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("in_progress_at", sa.Double),
        sa.Column("expires_at", sa.Double),
        sa.Column("finalizing_at", sa.Double),
        sa.Column("completed_at", sa.Double),
        sa.Column("failed_at", sa.Double),
        sa.Column("expired_at", sa.Double),
        sa.Column("cancelling_at", sa.Double),
        sa.Column("cancelled_at", sa.Double),
        sa.Column("paused_at", sa.Double),
        sa.Column("sweeping", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.PrimaryKeyConstraint("seq", name="pk_batch"),
        sa.UniqueConstraint("id", name="uq_batch_id"),
    )
    _index("ix_batch_client_id_seq", "batch", "client_id", "seq")
    _index("ix_batch_intake", "batch", "created_at", where="status = 'validating'")
    _index("ix_batch_sweeping", "batch", "id", where="sweeping")


def _make_callback() -> None:
    op.create_table(
        "callback",
        sa.Column("seq", _serial(), autoincrement=True, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("task_id", sa.Text),
        sa.Column("batch_id", sa.Text),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("tries_before", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("next_at", sa.Double, nullable=False),
        sa.Column("ring_at", sa.Double, nullable=False, server_default=sa.text("0")),
        sa.Column("claimed_by", sa.Text),
        sa.Column("claimed_at", sa.Double),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("finished_at", sa.Double),
        sa.Column("last_error", sa.Text),
        sa.PrimaryKeyConstraint("seq", name="pk_callback"),
        sa.UniqueConstraint("id", name="uq_callback_id"),
    )
    _index("ix_callback_batch_id", "callback", "batch_id")
    _index("ix_callback_delivering", "callback", "claimed_at", where="status = 'delivering'")
    _index("ix_callback_due", "callback", "host", "ring_at", where="status = 'pending'")
    _index("ix_callback_failed", "callback", "client_id", "seq", where="status = 'failed'")
    _index("ix_callback_task_id", "callback", "task_id")


def _make_client() -> None:
    op.create_table(
        "client",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("weight", sa.Double, nullable=False, server_default=sa.text("1")),
        sa.Column("granted_priority", sa.Text, nullable=False, server_default=sa.text("'normal'")),
        sa.Column("callback_secret", sa.Text, nullable=False),
        sa.Column("callback_secret_previous", sa.Text),
        sa.Column("callback_secret_until", sa.Double),
        sa.Column("callback_headers", sa.Text),
        sa.Column("is_admin", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("settings", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_client"),
    )


def _make_delivery() -> None:
    op.create_table(
        "delivery",
        sa.Column("seq", _serial(), autoincrement=True, nullable=False),
        sa.Column("callback_id", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("finished_at", sa.Double, nullable=False),
        sa.Column("status_code", sa.Integer),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("seq", name="pk_delivery"),
    )
    _index("ix_delivery_callback_id_number", "delivery", "callback_id", "number")


def _make_idempotency() -> None:
    op.create_table(
        "idempotency",
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("object_id", sa.Text, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("client_id", "key", name="pk_idempotency"),
    )
    _index("ix_idempotency_expires_at", "idempotency", "expires_at")


def _make_learned() -> None:
    op.create_table(
        "learned",
        sa.Column("quota", sa.Text, nullable=False),
        sa.Column("figures", sa.Text, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("quota", name="pk_learned"),
    )


def _make_task() -> None:
    op.create_table(
        "task",
        sa.Column("seq", _serial(), autoincrement=True, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("batch_id", sa.Text),
        sa.Column("batch_index", sa.Integer),
        sa.Column("custom_id", sa.Text),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("hold", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("estimate", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("available_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("fed_at", sa.Double),
        sa.Column("started_at", sa.Double),
        sa.Column("finished_at", sa.Double),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("counted", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("lost", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("front", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("avoid", sa.Text),
        sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("retry", sa.Text),
        sa.Column("worker", sa.Text),
        sa.Column("release", sa.BigInteger),
        sa.Column("claimed_at", sa.Double),
        sa.Column("key", sa.Text),
        sa.Column("account", sa.Text),
        sa.Column("upstream_model", sa.Text),
        sa.Column("error_code", sa.Text),
        sa.Column("error_type", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.Column("prompt_tokens", sa.Integer),
        sa.Column("completion_tokens", sa.Integer),
        sa.Column("cached_tokens", sa.Integer),
        sa.Column("reasoning_tokens", sa.Integer),
        sa.Column("cost_micros", sa.BigInteger),
        sa.Column("currency", sa.Text),
        sa.Column("cached", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("simulated", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("callback_url", sa.Text),
        sa.Column("metadata", sa.Text),
        sa.PrimaryKeyConstraint("seq", name="pk_task"),
        sa.UniqueConstraint("id", name="uq_task_id"),
        postgresql_with={"autovacuum_vacuum_scale_factor": 0.02, "autovacuum_analyze_scale_factor": 0.05},
    )
    _index("ix_task_batch", "task", "batch_id", "batch_index", where="batch_id IS NOT NULL")
    _index("ix_task_client_id_status_seq", "task", "client_id", "status", "seq")
    _index("ix_task_expiry", "task", "expires_at", where="status = 'queued'")
    _index("ix_task_fed", "task", "fed_at", "seq", where="status = 'queued' AND fed_at IS NOT NULL")
    _index("ix_task_held", "task", "batch_id", "seq", where="status = 'queued' AND hold = 2")
    _index("ix_task_running", "task", "worker", where="status = 'running'")
    _index("ix_task_timed", "task", "available_at", where="status = 'queued' AND hold = 1")
    _index(
        "ix_task_unfed",
        "task",
        "queue",
        "front",
        "step",
        "seq",
        where="status = 'queued' AND fed_at IS NULL AND hold = 0",
    )


def _make_task_content() -> None:
    op.create_table(
        "task_content",
        sa.Column("seq", _serial(), autoincrement=False, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("result", sa.Text),
        sa.PrimaryKeyConstraint("seq", name="pk_task_content"),
    )


def _make_worker() -> None:
    op.create_table(
        "worker",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("beat_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_worker"),
    )


def _make_api_key() -> None:
    op.create_table(
        "api_key",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("hint", sa.Text, nullable=False),
        sa.Column("scopes", sa.Text, nullable=False, server_default=sa.text("'*'")),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("revoked_at", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_api_key"),
        sa.ForeignKeyConstraint(["client_id"], ["client.id"], name="fk_api_key_client_id"),
        sa.UniqueConstraint("hash", name="uq_api_key_hash"),
    )
    _index("ix_api_key_client_id", "api_key", "client_id")
