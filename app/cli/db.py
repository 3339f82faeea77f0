"""`penstock db`: the database's schema."""

from __future__ import annotations

import click

from app.cli.failure import CommandFailure
from app.cli.opened import database_url, on_database


@click.group("db", short_help="bring the database up to date, or see whether it is")
def group() -> None:
    """Bring the database up to date, or see whether it is.

    The database is DATABASE_URL, else the one in the profile of the data folder.

    \b
    DATABASE_URL=postgresql://penstock@localhost/penstock penstock db upgrade
    """


@group.command("upgrade")
@on_database
def upgrade() -> None:
    """Run what migrations are missing, under a lock: several at once do no harm.

    \b
    penstock db upgrade
    """
    url = database_url()
    from app.platform.migrate import upgrade as migrate

    migrate(url)
    click.echo("The database is up to date.")


@group.command("status")
@on_database
def status() -> None:
    """Say whether the schema is the one this version needs; exit code 1 when it is not.

    \b
    penstock db status
    """
    url = database_url()
    from app.platform.migrate import head_is_current

    if not head_is_current(url):
        raise CommandFailure("the database is not up to date", "Run: penstock db upgrade")
    click.echo("The database is up to date.")
