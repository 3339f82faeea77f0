"""Who calls, as far as the use cases below need it: set where a request comes in, empty in the background."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import orjson

from app.access.domain.access import Caller


@dataclass(frozen=True, slots=True)
class CallerContext:
    """A caller, and where he calls from."""

    caller: Caller
    address: str
    zones: frozenset[str] = frozenset()


def to_text(calling: CallerContext | None) -> str | None:
    """What policies ask of it, as JSON: for work that goes on behind the answer."""
    if calling is None:
        return None
    who = {name: getattr(calling.caller, name) for name in _WHO}
    facts = {**who, "address": calling.address, "zones": sorted(calling.zones)}
    return orjson.dumps(facts).decode()


def from_text(text: str | None) -> CallerContext | None:
    """The way back."""
    if text is None:
        return None
    facts = orjson.loads(text)
    return CallerContext(
        Caller(**{name: facts[name] for name in _WHO}), facts["address"], frozenset(facts["zones"])
    )


@contextmanager
def calling(who: CallerContext | None) -> Iterator[None]:
    """Go on in this caller's name."""
    token = current.set(who)
    try:
        yield
    finally:
        current.reset(token)


_WHO = ("client_id", "key_id", "user", "team")
current: ContextVar[CallerContext | None] = ContextVar("calling", default=None)
