"""What a task's tiers depend on.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what was judged of a task at submission."""
    op.add_column("task", sa.Column("facts", sa.Text))


def downgrade() -> None:
    """Take it back: waiting tasks meet no condition any more."""
    op.drop_column("task", "facts")
