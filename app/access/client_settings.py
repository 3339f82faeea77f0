"""A client's settings, as they are stored: one JSON object."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

from app.access.domain.client_limits import NO_LIMITS, ClientLimits, as_mapping, parse_limits
from app.platform.domain.errors import Invalid


@lru_cache(4096)
def read_limits(settings: str | None) -> ClientLimits:
    """The limits in a client's settings."""
    return NO_LIMITS if settings is None else parse_limits(orjson.loads(settings).get("limits", {}))


def read_added_by(settings: str | None) -> str | None:
    """The administrator of a team whose share a client has; None: an administrator of the service has set its own."""
    return None if settings is None else orjson.loads(settings).get("added_by")


def write_limits(limits: ClientLimits, added_by: str | None = None) -> str | None:
    """Settings with these limits; None where there is nothing to say."""
    values = as_mapping(limits)
    settings = {"limits": values} if values else {}
    if added_by is not None:
        settings["added_by"] = added_by  # type: ignore[assignment]
    return orjson.dumps(settings).decode() if settings else None


def check_limits(given: Mapping[str, Any]) -> ClientLimits:
    """Read what somebody wishes. Raises Invalid that names the limit."""
    try:
        return parse_limits(given)
    except ValueError as error:
        name, _, rest = str(error).partition(":")
        raise Invalid(f"limits.{name}:{rest}", param=f"limits.{name}", code="invalid_value") from None
