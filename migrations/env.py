"""How Alembic reaches the database: by the connection that app.platform.migrate hands over, else by DATABASE_URL."""

from __future__ import annotations

import os

from alembic import context
from sqlalchemy import Connection

from app.composition.schema import metadata
from app.platform.migrate import connected


def run(connection: Connection) -> None:
    """Migrate within the connection's transaction: all steps or none."""
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
    context.run_migrations()


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with connected(os.environ["DATABASE_URL"]) as connection:
        run(connection)
        connection.commit()
