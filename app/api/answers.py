"""Writing answers: JSON by orjson, and what every one of them has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from flask import Response


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response. Stored JSON text goes in as orjson.Fragment, unparsed."""
    return Response(orjson.dumps(value), status, headers, content_type="application/json")


def raw(text: str | None) -> orjson.Fragment | None:
    """Stored JSON text, to be written out as it is."""
    return None if text is None else orjson.Fragment(text)
