"""`penstock db`: the database's schema."""

from __future__ import annotations

import os

import click

from app.cli.failure import Exit, Failure
from app.cli.profile import data_folder, load


@click.group("db", short_help="bring the database up to date, or see whether it is")
def group() -> None:
    """Bring the database up to date, or see whether it is.

    The database is DATABASE_URL, else the one in the profile of the data folder.

    \b
    DATABASE_URL=postgresql://penstock@localhost/penstock penstock db upgrade
    """


@group.command("upgrade")
def upgrade() -> None:
    """Run what migrations are missing, under a lock: several at once do no harm.

    \b
    penstock db upgrade
    """
    url = database_url()
    from app.db.migrate import upgrade as migrate

    migrate(url)
    click.echo("The database is up to date.")


@group.command("status")
def status() -> None:
    """Say whether the schema is the one this version needs; exit code 1 when it is not.

    \b
    penstock db status
    """
    url = database_url()
    from app.db.migrate import head_is_current

    if not head_is_current(url):
        raise Failure("the database is not up to date", "Run: penstock db upgrade")
    click.echo("The database is up to date.")


def database_url() -> str:
    """The URL to work on. Raises Failure when none is known."""
    from app.settings import load_settings

    url = load_settings(None, os.environ).database_url or load(data_folder(os.environ)).database_url
    if not url:
        mend = "Set DATABASE_URL, or start the service once by: penstock up"
        raise Failure("no database is known here", mend, Exit.CONFIGURATION)
    return url
