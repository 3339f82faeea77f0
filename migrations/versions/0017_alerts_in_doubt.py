"""Alerts of which a message was begun and never noted.

Revision ID: 0017
Revises: 0012
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add whether a message about an alert may have gone out."""
    op.add_column("alert", sa.Column("unsure", sa.Boolean, nullable=False, server_default=sa.text("false")))


def downgrade() -> None:
    """Take it back."""
    op.drop_column("alert", "unsure")
