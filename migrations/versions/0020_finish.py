"""How answers finished: complete, empty, truncated and so on; and what of that a batch has.

Revision ID: 0020
Revises: 0019
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add them; answers that are there stay unknown."""
    op.add_column("task", sa.Column("finish", sa.Text))
    op.add_column("batch", sa.Column("finishes", sa.Text))


def downgrade() -> None:
    """Take them back."""
    op.drop_column("task", "finish")
    op.drop_column("batch", "finishes")
