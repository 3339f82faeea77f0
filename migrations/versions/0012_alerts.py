"""Alerts and what they are judged by.

Revision ID: 0012
Revises: 0013
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add four small tables."""
    op.create_table(
        "alert",
        sa.Column("rule", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("severity", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("told", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.PrimaryKeyConstraint("rule", "subject", name="pk_alert"),
    )
    op.create_table(
        "alert_watch",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("watcher", sa.Text, nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_alert_watch"),
    )
    op.create_table(
        "alert_channel",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("tried_at", sa.Double, nullable=False),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("name", name="pk_alert_channel"),
    )
    op.create_table(
        "vital",
        sa.Column("process", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("cpu", sa.Double, nullable=False),
        sa.Column("requests", sa.Double, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("process", name="pk_vital"),
    )


def downgrade() -> None:
    """Take them away."""
    for name in ("vital", "alert_channel", "alert_watch", "alert"):
        op.drop_table(name)
