"""A client's own headers on its callbacks: which may be set, and which are sent."""

from __future__ import annotations

import re
from collections.abc import Mapping

MAX_HEADERS = 20
MAX_VALUE_CHARACTERS = 4096
# Headers that a client may not set on its callbacks: ours, and those that steer the connection.
_RESERVED = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "webhook-id",
        "webhook-signature",
        "webhook-timestamp",
    }
)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise ValueError, naming the header, when a client's own callback headers cannot be sent."""
    if len(headers) > MAX_HEADERS:
        raise ValueError(f"at most {MAX_HEADERS} callback headers")
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _RESERVED:
            raise ValueError(f"callback header {name!r} may not be set")
        if not value.isascii() or not value.isprintable() or len(value) > MAX_VALUE_CHARACTERS:
            raise ValueError(f"callback header {name!r} needs a printable ASCII value")


def usable_headers(headers: Mapping[str, object]) -> dict[str, str]:
    """Those of a client's stored headers that can be sent; the others are left out."""
    usable: dict[str, str] = {}
    for name, value in headers.items():
        try:
            check_headers({name: str(value)})
        except ValueError:
            continue
        usable[name] = str(value)
    return usable
