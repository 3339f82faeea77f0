"""Who made a batch over a file, and from where: what policies ask when its lines are taken in.

Revision ID: 0018
Revises: 0017
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add it; batches that are being taken in now know of nobody."""
    op.add_column("batch", sa.Column("asker", sa.Text))


def downgrade() -> None:
    """Take it back."""
    op.drop_column("batch", "asker")
