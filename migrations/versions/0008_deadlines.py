"""Nearest deadline first, off-peak windows, degraded answers, and the start that was estimated at submission.

Revision ID: 0008
Revises: 0006
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0006"
branch_labels = None
depends_on = None

_UNFED = "status = 'queued' AND fed_at IS NULL AND hold = 0"
_NEW = {
    "ix_task_line": (
        (sa.text("substr(queue, 1)"), "step", "due", "seq", "expires_at"),
        "status = 'queued' AND hold = 0",
    ),
    "ix_task_off_peak": (("queue", "expires_at"), "status = 'queued' AND hold = 7"),
    "ix_task_window": (("available_at",), "status = 'queued' AND hold = 7"),
    "ix_task_in_window": (("model", "seq"), "status = 'queued' AND off_peak AND hold IN (0, 4)"),
    "ix_task_degradable": (
        ("degrade_at",),
        "status = 'queued' AND hold IN (0, 1) AND degrade_at IS NOT NULL",
    ),
}


def _index(name: str, columns: Sequence[str | sa.TextClause], where: str) -> None:
    op.create_index(name, "task", list(columns), postgresql_where=sa.text(where), sqlite_where=sa.text(where))


def upgrade() -> None:
    """Add the columns, and their place in the indexes."""
    op.add_column(
        "task", sa.Column("due", sa.Double, nullable=False, server_default=sa.text("1000000000000"))
    )
    op.add_column("task", sa.Column("off_peak", sa.Boolean, nullable=False, server_default=sa.text("false")))
    op.add_column("task", sa.Column("degrade_at", sa.Double))
    op.add_column("task", sa.Column("degraded", sa.Boolean, nullable=False, server_default=sa.text("false")))
    op.add_column("task", sa.Column("estimated_start_at", sa.Double))
    op.add_column("task", sa.Column("asked", sa.Integer, nullable=False, server_default=sa.text("0")))
    op.drop_index("ix_task_unfed", "task")
    _index("ix_task_unfed", ("queue", "front", "step", "due", "seq"), _UNFED)
    for name, (columns, where) in _NEW.items():
        _index(name, columns, where)


def downgrade() -> None:
    """Take them back."""
    for name in _NEW:
        op.drop_index(name, "task")
    op.drop_index("ix_task_unfed", "task")
    _index("ix_task_unfed", ("queue", "front", "step", "seq"), _UNFED)
    for column in ("asked", "estimated_start_at", "degraded", "degrade_at", "off_peak", "due"):
        op.drop_column("task", column)
