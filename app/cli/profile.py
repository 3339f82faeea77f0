"""The service of a data folder, as `penstock up` left it there; its database, for commands that need no service.

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
    """What is known of the service of one data folder. Empty text: not known, or given by the environment."""

    url: str = ""
    api_key: str = ""
    flower_url: str = ""
    flower_auth: str = ""  # user:password
    database_url: str = ""
    redis_url: str = ""
    simulator_url: str = ""  # of the simulated upstream, when that is what answers
    configuration: str = ""  # the file that it was started with


def data_folder(environ: Mapping[str, str], given: Path | None = None) -> Path:
    """The folder named by --data, else by PENSTOCK_DATA, else `.penstock` here."""
    if given is not None:
        return given.expanduser().absolute()
    return Path(environ.get(DATA_VARIABLE) or DEFAULT_DATA).expanduser().absolute()


def load(folder: Path) -> Profile:
    """The profile of a data folder; an empty one where there is none or it cannot be read."""
    try:
        stored = json.loads((folder / "profile.json").read_text())
        return Profile(**{name: str(stored.get(name, "")) for name in Profile.__slots__})
    except (OSError, ValueError, AttributeError):
        return Profile()


def save(folder: Path, profile: Profile) -> None:
    """Write it, readable by this user only from its first byte on."""
    folder.mkdir(parents=True, exist_ok=True)
    write_private(folder / "profile.json", json.dumps(asdict(profile), indent=2) + "\n")
    write_private(folder / "authorization", f"Authorization: Bearer {profile.api_key}\n")


def write_private(path: Path, text: str) -> None:
    """Put `text` in place of what `path` holds, mode 0600."""
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
        hint = "Set DATABASE_URL, name the service's folder by --data, or start it once by: penstock up"
        raise CommandFailure(f"no database is known in {folder()}", hint, Exit.CONFIGURATION)
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


def audited(database: Database, action: str, subject: str) -> None:
    """Write down what was done to what, and by which user of this machine."""
    from app.access.audit_log import write_audit
    from app.access.domain.audit import AuditEntry

    entry = AuditEntry(at=time.time(), action=action, user=_user(), address="cli", task_id=subject)
    database.write(lambda conn: write_audit(conn, [entry]))


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user need not have a name
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
