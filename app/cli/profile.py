"""The profile that `penstock up` writes to its data folder, and the database for commands that work without a service.

`DIR/profile.json` (mode 0600) holds the service's address and generated secrets; `DIR/authorization` (0600) holds the
header for curl's `-H @FILE`, so that no key appears on a command line.
"""

from __future__ import annotations

import getpass
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from app.cli.failure import CommandFailure, Exit
from app.platform.domain.times import parse_duration, parse_instant

if TYPE_CHECKING:
    from app.platform.database import Database

DATA_VARIABLE = "PENSTOCK_DATA"
DEFAULT_DATA = Path(".penstock")


@dataclass(frozen=True, slots=True)
class Profile:
    """The service of one data folder. An empty value is unknown or comes from the environment."""

    url: str = ""
    api_key: str = ""
    flower_url: str = ""
    flower_auth: str = ""  # user:password
    database_url: str = ""
    redis_url: str = ""
    simulator_url: str = ""  # of the simulated upstream, if there is one
    configuration: str = ""  # the file it was started with


def data_folder(environ: Mapping[str, str], given: Path | None = None) -> Path:
    """The folder named by --data, else by PENSTOCK_DATA, else `.penstock` here."""
    if given is not None:
        return given.expanduser().absolute()
    return Path(environ.get(DATA_VARIABLE) or DEFAULT_DATA).expanduser().absolute()


def load(folder: Path) -> Profile:
    """Return the profile of a data folder; an empty one if it is missing or unreadable."""
    try:
        stored = json.loads((folder / "profile.json").read_text())
        return Profile(**{name: str(stored.get(name, "")) for name in Profile.__slots__})
    except (OSError, ValueError, AttributeError):
        return Profile()


def save(folder: Path, profile: Profile) -> None:
    """Write the profile, never readable by other users."""
    folder.mkdir(parents=True, exist_ok=True)
    write_private(folder / "profile.json", json.dumps(asdict(profile), indent=2) + "\n")
    write_private(folder / "authorization", f"Authorization: Bearer {profile.api_key}\n")


def write_private(path: Path, text: str) -> None:
    """Replace the contents of `path` atomically, mode 0600."""
    partial = path.with_name(f"{path.name}.new")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.replace(path)


F = TypeVar("F", bound=Callable[..., Any])
_DATA = f"{__name__}.data"


def _remember(ctx: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
    ctx.meta[_DATA] = value


def on_database(command: F) -> F:
    """Add `--data` to a command that works on the database."""
    text = "Folder with the profile; names the database unless DATABASE_URL does [default: .penstock]."
    kind = click.Path(path_type=Path)
    return click.option("--data", type=kind, expose_value=False, callback=_remember, help=text)(command)


def folder() -> Path:
    """The data folder: --data of this command, else the default."""
    ctx = click.get_current_context(silent=True)
    return data_folder(os.environ, ctx.meta.get(_DATA) if ctx else None)


def configuration(given: Path | None = None) -> Path | None:
    """The given file, else the one the data folder's service was started with; None: the default one."""
    known = load(folder()).configuration
    return given or (Path(known) if known else None)


def database_url() -> str:
    """The database URL: DATABASE_URL, else the one in the data folder's profile. Raises CommandFailure."""
    from app.settings import load_settings

    url = load_settings(None, os.environ).database_url or load(folder()).database_url
    if not url:
        hint = "Set DATABASE_URL, give the service's folder with --data, or start it once: penstock up"
        raise CommandFailure(f"no database is known in {folder()}", hint, Exit.CONFIGURATION)
    return url


@contextmanager
def opened() -> Iterator[Database]:
    """Open the database for the length of the block."""
    from app.platform.database import Database

    database = Database(database_url())
    try:
        yield database
    finally:
        database.close()


def audited(database: Database, action: str, subject: str) -> None:
    """Add an entry to the audit log: action, subject and the user of this machine."""
    from app.access.audit_log import write_audit
    from app.access.domain.audit import ChainEntry

    entry = ChainEntry(at=time.time(), action=action, user=_user(), address="cli", task_id=subject)
    database.write(lambda conn: write_audit(conn, [entry]))


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "unknown"


def parse_since(text: str) -> float:
    """Unix seconds of "2h" ago or of "2026-11-21T06:00:00Z". Raises UsageError."""
    try:
        return time.time() - parse_duration(text)
    except ValueError:
        pass
    try:
        return parse_instant(text)
    except ValueError as error:
        raise click.UsageError(f"--since: {error}") from None
