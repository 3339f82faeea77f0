"""The key that session cookies are signed with: the same in all processes, and never the administrator's key itself."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

_FILE = "dashboard.key"


def signing_key(admin_key: str | None, environ: Mapping[str, str] = os.environ) -> bytes:
    """Derive it from the administrator's key; without one, make it once and keep it in the data folder (0600).

    scrypt, since an administrator's key is what somebody chose: a stolen cookie is no quick test of guesses.
    Where no file can be kept, the key lives as long as this process.
    """
    if admin_key:
        return hashlib.scrypt(admin_key.encode(), salt=b"penstock dashboard", n=2**14, r=8, p=1, dklen=32)
    folder = Path(environ.get("PENSTOCK_DATA") or ".penstock").expanduser()
    try:
        return _kept(folder / _FILE)
    except OSError:
        return secrets.token_bytes(32)


def _kept(path: Path) -> bytes:
    """What the file holds; of several processes that start together one writes it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    if not path.exists():
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
        try:
            os.link(partial, path)
        except FileExistsError:
            pass
        finally:
            partial.unlink()
    return path.read_bytes()
