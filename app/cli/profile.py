"""The local profile: what `penstock up` writes into its data folder for the other commands to find.

`DIR/profile.json` (mode 0600) holds the service's address and the secrets that were made for it. Beside it
`DIR/authorization` (0600) holds the header for curl's `-H @FILE`, so that no key stands in a command line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

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
