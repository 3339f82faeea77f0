"""Who calls, as far as the use cases below need it: set where a request comes in, empty in the background."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from app.domain.access import Caller


@dataclass(frozen=True, slots=True)
class Calling:
    """A caller, and where he calls from."""

    caller: Caller
    address: str
    zones: frozenset[str] = frozenset()


current: ContextVar[Calling | None] = ContextVar("calling", default=None)
