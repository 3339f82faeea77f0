"""What calls cost, answers kept, identical tasks joined.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_HEADING = ("day", "client_id", "model", "key", "account", "upstream_model", "currency")
_FIGURES = (
    "tasks",
    "calls",
    "cache_hits",
    "coalesced",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "unpriced_calls",
    "cost",
    "saved_cache",
    "saved_coalescing",
    "saved_prompt_cache",
    "saved_off_peak",
)
_INDEXES = {
    "ix_task_joining": ("seq", "status = 'queued' AND hold = 4"),
    "ix_task_leading": ("cache_key", "leads"),
    "ix_task_following": ("cache_key", "status = 'queued' AND hold = 5"),
    "ix_task_abandoned": (
        "seq",
        "leads AND (hold = 3 OR status IN ('succeeded', 'failed', 'cancelled', 'expired'))",
    ),
}

_SCALE = "UPDATE {} SET cost_picos = cost_picos {} 1000000 WHERE cost_picos IS NOT NULL"


def upgrade() -> None:
    """Count money in pico-units; add what the cache, coalescing and usage need."""
    for table in ("task", "attempt"):
        op.execute(f"ALTER TABLE {table} RENAME COLUMN cost_micros TO cost_picos")
        op.execute(_SCALE.format(table, "*"))
    op.add_column("task", sa.Column("cache_key", sa.Text))
    op.add_column("task", _flag("cache_look"))
    op.add_column("task", sa.Column("cache_seconds", sa.Double))
    op.add_column("task", _flag("leads"))
    op.add_column("task", _flag("coalesced"))
    for name, (column, where) in _INDEXES.items():
        condition = sa.text(where)
        op.create_index(name, "task", [column], postgresql_where=condition, sqlite_where=condition)
    for name in ("calls", "connections"):
        op.add_column("worker", _count(name))
    _make_cache_entry()
    _make_usage()


def downgrade() -> None:
    """Take it back; costs are rounded down to whole micro-units."""
    for table in ("usage_day", "usage_entry", "cache_entry"):
        op.drop_table(table)
    for name in ("connections", "calls"):
        op.drop_column("worker", name)
    for name in _INDEXES:
        op.drop_index(name, "task")
    for name in ("coalesced", "leads", "cache_seconds", "cache_look", "cache_key"):
        op.drop_column("task", name)
    for table in ("task", "attempt"):
        op.execute(_SCALE.format(table, "/"))
        op.execute(f"ALTER TABLE {table} RENAME COLUMN cost_picos TO cost_micros")


def _make_cache_entry() -> None:
    op.create_table(
        "cache_entry",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("entry", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("used_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_cache_entry"),
    )
    op.create_index("ix_cache_entry_expires_at", "cache_entry", ["expires_at"])
    op.create_index("ix_cache_entry_used_at", "cache_entry", ["used_at"])


def _make_usage() -> None:
    serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "usage_entry",
        sa.Column("seq", serial, autoincrement=True, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in _HEADING),
        *(_count(name) for name in _FIGURES),
        sa.PrimaryKeyConstraint("seq", name="pk_usage_entry"),
    )
    op.create_table(
        "usage_day",
        *(sa.Column(name, sa.Text, nullable=False) for name in _HEADING),
        *(_count(name) for name in _FIGURES),
        sa.PrimaryKeyConstraint(*_HEADING, name="pk_usage_day"),
    )
    op.create_index("ix_usage_day_client_id_day", "usage_day", ["client_id", "day"])


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0"))


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False, server_default=sa.text("false"))
