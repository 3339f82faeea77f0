"""A page of an upstream, as one GET brought it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class FetchedPage:
    """One GET. `status` 0: no answer came, `error` says why."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    body: Any = None  # parsed JSON; None when it was none
    seconds: float = 0.0
    asked_at: float = 0.0  # Unix seconds
    error: str = ""
