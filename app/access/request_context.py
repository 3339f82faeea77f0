"""Who calls and from where: set where a request comes in, read by use cases, empty in background threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache

import orjson

from app.access.domain.caller import Caller
from app.platform.domain.url_rules import Address, Network, parse_address

_MOST_HOPS = 32


def client_address(peer: str, forwarded_for: str | None, trusted: Sequence[Network]) -> str:
    """The first address, counted from this end, that is not a trusted proxy.

    `peer` is the socket's other end, `forwarded_for` the X-Forwarded-For header, to which each proxy appends its peer.
    Whatever precedes the first untrusted address may be forged, and is ignored.
    """
    found = peer
    for hop in reversed((forwarded_for or "").split(",")[-_MOST_HOPS:]):
        if not _is_trusted(found, trusted):
            return found
        written = _without_port(hop.strip())
        if _parsed(written) is None:
            return found
        found = written
    return found


def zones_of(address: str | None, zones: dict[str, tuple[Network, ...]]) -> frozenset[str]:
    """The named networks that contain an address."""
    parsed = _parsed(address or "")
    if parsed is None:
        return frozenset()
    return frozenset(
        name for name, networks in zones.items() if any(parsed in network for network in networks)
    )


def _is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in trusted)


@lru_cache(4096)
def _parsed(text: str) -> Address | None:
    try:
        return parse_address(text)
    except ValueError:
        return None


def _without_port(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


@dataclass(frozen=True, slots=True)
class CallerContext:
    """A caller, and the address they call from."""

    caller: Caller
    address: str
    zones: frozenset[str] = frozenset()


def to_text(calling: CallerContext | None) -> str | None:
    """The facts that policies need, as JSON: for work that continues after the response."""
    if calling is None:
        return None
    who = {name: getattr(calling.caller, name) for name in _WHO}
    facts = {**who, "address": calling.address, "zones": sorted(calling.zones)}
    return orjson.dumps(facts).decode()


def from_text(text: str | None) -> CallerContext | None:
    """Read what `to_text` wrote."""
    if text is None:
        return None
    facts = orjson.loads(text)
    return CallerContext(
        Caller(**{name: facts[name] for name in _WHO}), facts["address"], frozenset(facts["zones"])
    )


@contextmanager
def calling(who: CallerContext | None) -> Iterator[None]:
    """Run the block as this caller."""
    token = current.set(who)
    try:
        yield
    finally:
        current.reset(token)


_WHO = ("client_id", "key_id", "user", "team")
current: ContextVar[CallerContext | None] = ContextVar("calling", default=None)
