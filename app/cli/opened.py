"""The database itself, for commands that work before the service does, and without it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from app.cli.failure import CommandFailure, Exit
from app.cli.profile import data_folder, load

if TYPE_CHECKING:
    from app.platform.database import Database

F = TypeVar("F", bound=Callable[..., Any])
_DATA = f"{__name__}.data"


def _remember(ctx: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
    ctx.meta[_DATA] = value


def on_database(command: F) -> F:
    """Add `--data` to a command that works on the database."""
    told = "Folder with the profile, which knows the database if DATABASE_URL does not [default: .penstock]."
    kind = click.Path(path_type=Path)
    return click.option("--data", type=kind, expose_value=False, callback=_remember, help=told)(command)


def folder() -> Path:
    """The data folder: --data of this command, else as everywhere."""
    ctx = click.get_current_context(silent=True)
    return data_folder(os.environ, ctx.meta.get(_DATA) if ctx else None)


def configuration(given: Path | None = None) -> Path | None:
    """The file given, else the one that the service of the data folder was started with; None: the usual one."""
    known = load(folder()).configuration
    return given or (Path(known) if known else None)


def database_url() -> str:
    """The URL to work on: DATABASE_URL, else what the data folder's profile knows. Raises Failure."""
    from app.settings import load_settings

    url = load_settings(None, os.environ).database_url or load(folder()).database_url
    if not url:
        mend = "Set DATABASE_URL, name the service's folder by --data, or start it once by: penstock up"
        raise CommandFailure(f"no database is known in {folder()}", mend, Exit.CONFIGURATION)
    return url


@contextmanager
def opened() -> Iterator[Database]:
    """The database, closed at the end."""
    from app.platform.database import Database

    database = Database(database_url())
    try:
        yield database
    finally:
        database.close()
