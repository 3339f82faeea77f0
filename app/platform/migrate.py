"""The schema: brought up to date by Alembic, one process at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, text

from app.platform.domain.errors import DatabaseUnreachable
from app.platform.engines import parse_url, postgresql_engine, sqlite_writer, translated

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
LOCK_SECONDS = 120.0  # for as long another process may take to migrate
_LOCK = 7_221_045_318_200_411  # any number that nobody else uses
_LOOK_SECONDS = 0.1


def upgrade(url: str) -> None:
    """Bring the schema up to date. Several processes at once do no harm: one works, the others wait.

    Raises DatabaseUnreachable.
    """
    parsed = parse_url(url)
    with translated(), _locked_file(parsed), connected(url) as connection:
        _lock_server(connection)
        command.upgrade(_config(connection), "head")
        connection.commit()


def head_is_current(url: str) -> bool:
    """Whether the schema is the one that this version needs. Raises DatabaseUnreachable."""
    path = _path(parse_url(url))
    if path is not None and not path.exists():  # looking would make it
        return False
    with translated(), connected(url) as connection:
        stands = MigrationContext.configure(connection).get_current_heads()
    return set(stands) == set(ScriptDirectory(str(MIGRATIONS)).get_heads())


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """A connection of its own to the database, ended after use; nothing is committed by itself."""
    parsed = parse_url(url)
    engine = sqlite_writer(parsed) if _path(parsed) else postgresql_engine(parsed, 1)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _config(connection: Connection) -> Config:
    """Alembic's settings, independent of files and of the working directory."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _path(url: URL) -> Path | None:
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


@contextmanager
def _locked_file(url: URL) -> Iterator[None]:
    """Hold the lock file beside a SQLite database; nothing to do on a server."""
    path = _path(url)
    if path is None:
        yield
        return
    try:
        file = path.with_name(f"{path.name}.migrate").open("a")
    except OSError as error:
        raise DatabaseUnreachable(f"the database cannot be reached: {error}") from error
    with file:
        _wait_for(lambda: _flock(file.fileno()))
        yield


def _lock_server(connection: Connection) -> None:
    """Hold PostgreSQL's advisory lock until the transaction ends; a migration may take its time."""
    if connection.dialect.name != "postgresql":
        return
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    take = text("SELECT pg_try_advisory_xact_lock(:lock)")
    _wait_for(lambda: bool(connection.execute(take, {"lock": _LOCK}).scalar()))


def _flock(number: int) -> bool:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for(taken: Callable[[], bool]) -> None:
    until = monotonic() + LOCK_SECONDS
    while not taken():
        if monotonic() > until:
            raise DatabaseUnreachable("another process has been migrating the database for two minutes")
        sleep(_LOOK_SECONDS)
