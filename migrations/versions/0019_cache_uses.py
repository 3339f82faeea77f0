"""How often a cached answer was used: what the least frequently used are evicted by.

Revision ID: 0019
Revises: 0018
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add it; entries of before count as used once."""
    op.add_column(
        "cache_entry", sa.Column("uses", sa.BigInteger, nullable=False, server_default=sa.text("1"))
    )


def downgrade() -> None:
    """Take it back."""
    op.drop_column("cache_entry", "uses")
