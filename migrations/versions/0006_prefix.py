"""What a task's prompt begins with.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a short name of the system prompt."""
    op.add_column("task", sa.Column("prefix", sa.Text))


def downgrade() -> None:
    """Take it back."""
    op.drop_column("task", "prefix")
