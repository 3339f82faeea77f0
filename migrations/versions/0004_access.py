"""Teams, users, budgets, policies, the audit log; what is erased and deleted.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ENDED = "status IN ('succeeded', 'failed', 'cancelled', 'expired')"
_INDEXES = {
    "ix_task_over_budget": (["client_id", "seq"], "status = 'queued' AND hold = 6"),
    "ix_task_settling": (["seq"], f"reserved_at IS NOT NULL AND {_ENDED}"),
    "ix_task_unstored": (["finished_at"], f"NOT stored AND erased_at IS NULL AND {_ENDED}"),
    "ix_task_deleted": (["seq"], "deleted_at IS NOT NULL"),
}
_TEXTS = ("action", "client_id", "team", "user", "key_id", "address", "model", "task_id", "request_id")


def upgrade() -> None:
    """Add what access needs."""
    for name in ("team", "administers"):
        op.add_column("client", sa.Column(name, sa.Text))
    for name in ("name", "user_name"):
        op.add_column("api_key", sa.Column(name, sa.Text))
    op.add_column("task", sa.Column("reserved_tokens", sa.BigInteger))
    op.add_column("task", sa.Column("reserved_picos", sa.BigInteger))
    op.add_column("task", sa.Column("reserved_at", sa.Double))
    op.add_column("task", sa.Column("stored", sa.Boolean, nullable=False, server_default=sa.text("true")))
    op.add_column("task", sa.Column("erased_at", sa.Double))
    op.add_column("task", sa.Column("deleted_at", sa.Double))
    for name, (columns, where) in _INDEXES.items():
        _partial(name, "task", columns, where)
    _make_budget_use()
    _make_policy()
    _make_audit()


def downgrade() -> None:
    """Take it back; the audit log is lost."""
    for table in ("audit_head", "audit", "policy", "budget_use"):
        op.drop_table(table)
    for name in _INDEXES:
        op.drop_index(name, "task")
    for name in ("deleted_at", "erased_at", "stored", "reserved_at", "reserved_picos", "reserved_tokens"):
        op.drop_column("task", name)
    for name in ("user_name", "name"):
        op.drop_column("api_key", name)
    for name in ("administers", "team"):
        op.drop_column("client", name)


def _make_budget_use() -> None:
    op.create_table(
        "budget_use",
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("period", sa.Text, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("picos", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.PrimaryKeyConstraint("client_id", "period", name="pk_budget_use"),
    )


def _make_policy() -> None:
    op.create_table(
        "policy",
        sa.Column("seq", _serial(), autoincrement=True, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_policy"),
        sa.UniqueConstraint("id", name="uq_policy_id"),
    )


def _make_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("seq", _serial(), autoincrement=True, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False, server_default=sa.text("''")) for name in _TEXTS),
        sa.Column("status", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("duration_ms", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("details", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("number", sa.BigInteger),
        sa.Column("digest", sa.Text),
        sa.PrimaryKeyConstraint("seq", name="pk_audit"),
    )
    _partial("ix_audit_unchained", "audit", ["seq"], "number IS NULL")
    op.create_index("ix_audit_number", "audit", ["number"])
    op.create_index("ix_audit_at_ms", "audit", ["at_ms"])
    op.create_index("ix_audit_client_id_at_ms", "audit", ["client_id", "at_ms"])
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("first", sa.BigInteger, nullable=False),
        sa.Column("before", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_head"),
    )


def _serial() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _partial(name: str, table: str, columns: list[str], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, postgresql_where=condition, sqlite_where=condition)
