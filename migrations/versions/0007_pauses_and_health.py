"""What an operator has paused, and how keys and accounts stand.

Revision ID: 0007
Revises: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables `pause`, `health` and `configuration`."""
    op.create_table(
        "pause",
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("subject", name="pk_pause"),
    )
    op.create_table(
        "health",
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("subject", name="pk_health"),
    )
    op.create_table(
        "configuration",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("asked_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_configuration"),
    )


def downgrade() -> None:
    """Take them back."""
    for table in ("configuration", "health", "pause"):
        op.drop_table(table)
