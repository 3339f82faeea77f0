"""More instants of each call, for `penstock profile`, and what goes on in a trace.

Revision ID: 0013
Revises: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add when a task was ready to run, when its request went out, when what came of it was written."""
    for name in ("ready_at", "sent_at", "recorded_at"):
        op.add_column("attempt", sa.Column(name, sa.Double))
    op.add_column("task", sa.Column("trace", sa.Text))


def downgrade() -> None:
    """Take them back."""
    op.drop_column("task", "trace")
    for name in ("recorded_at", "sent_at", "ready_at"):
        op.drop_column("attempt", name)
