"""A callback URL: what one may look like, and what stands in its request."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from app.platform.domain.network import SETTING as NETWORKS_SETTING
from app.platform.domain.network import Network, parse_address, why_refused

PORTS_SETTING = "callbacks.ports"
DEFAULT_PORTS = ("80", "443", "8000-9000")
MAX_URL_CHARACTERS = 2048
_SCHEMES = {"http": 80, "https": 443}
_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?")
_KEPT = "!#$%&'()*+,/:;=?@[]~"  # characters of a path and query that stay as they were written


@dataclass(frozen=True, slots=True)
class UrlTarget:
    """A URL taken apart. `host` is as it goes to the resolver: lower case, ASCII, no brackets."""

    scheme: str
    host: str
    port: int
    path: str  # with the query, percent-encoded, never empty

    @property
    def key(self) -> str:
        """What breaker and concurrency are kept by: "host:port"."""
        return f"{self.host.rstrip('.')}:{self.port}"

    @property
    def authority(self) -> str:
        """What the Host header says: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _SCHEMES[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class TargetRules:
    """What the operator lets callbacks reach: `ports` are inclusive ranges, `networks` those not public."""

    ports: tuple[tuple[int, int], ...] = field(default_factory=lambda: parse_ports(DEFAULT_PORTS))
    networks: tuple[Network, ...] = ()

    def allow_port(self, port: int) -> bool:
        """Whether a callback may go to this port."""
        return any(first <= port <= last for first, last in self.ports)

    def refuse_address(self, address: str) -> str | None:
        """Why this resolved address may not be reached, or None. The address itself is not repeated."""
        kind = why_refused(address, self.networks)
        if kind is None:
            return None
        return f"the callback's address is refused ({kind}); {NETWORKS_SETTING} does not list its network"

    def refuse_any(self, addresses: Iterable[str]) -> str | None:
        """The first refusal among all that a name resolves to: one forbidden address refuses them all."""
        refusals = (self.refuse_address(address) for address in addresses)
        return next((refusal for refusal in refusals if refusal is not None), None)


class BadTarget(ValueError):
    """A URL that no callback can ever go to. The message is fit for the caller and does not repeat it."""


def parse_ports(texts: Iterable[str | int]) -> tuple[tuple[int, int], ...]:
    """Read ports such as 443, "443" and "8000-9000". Raises ValueError naming the faulty one."""
    ranges = []
    for text in texts:
        first, dash, last = str(text).partition("-")
        low, high = int(first), int(last if dash else first)
        if not 1 <= low <= high <= 65535:
            raise ValueError(f"not a port or a range of ports: {text}")
        ranges.append((low, high))
    return tuple(ranges)


def parse_target(url: str, rules: TargetRules) -> UrlTarget:
    """Take a callback URL apart. Raises BadTarget for whatever could never be sent.

    1. http or https, of printable characters, no user or password in it.
    2. A host that is a name or an address; odd notations of addresses are left to the resolver.
    3. A port that the operator allows.
    4. An address that is written out must be allowed; names are judged when the socket opens.
    """
    parts = _split(url)
    target = UrlTarget(parts[0], _ascii_host(parts[1]), parts[2], parts[3])
    if not rules.allow_port(target.port):
        raise BadTarget(f"port {target.port} is refused; {PORTS_SETTING} does not list it")
    if _is_address(target.host):
        refusal = rules.refuse_address(target.host)
        if refusal is not None:
            raise BadTarget(refusal)
    return target


def host_of(url: str) -> str:
    """Name the "host:port" of a stored URL; what cannot be read shares the name "?"."""
    try:
        scheme, host, port, path = _split(url)
        return UrlTarget(scheme, _ascii_host(host), port, path).key
    except BadTarget:
        return "?"


def _split(url: str) -> tuple[str, str, int, str]:
    if len(url) > MAX_URL_CHARACTERS:
        raise BadTarget(f"a callback URL may have {MAX_URL_CHARACTERS} characters at most")
    if not url.isprintable() or any(mark in url for mark in " \\"):
        raise BadTarget("a callback URL may not hold spaces, backslashes or control characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BadTarget("not a valid URL") from None
    if parts.scheme not in _SCHEMES:
        raise BadTarget("a callback URL must begin with https:// or http://")
    if "@" in parts.netloc:
        raise BadTarget("a callback URL may not hold a user or password; use callback headers instead")
    port = _SCHEMES[parts.scheme] if port is None else port
    query = f"?{parts.query}" if parts.query else ""
    return parts.scheme, parts.hostname or "", port, quote((parts.path or "/") + query, safe=_KEPT)


def _ascii_host(host: str) -> str:
    if _is_address(host) and "%" not in host:
        return host
    try:
        name = host.encode("idna").decode("ascii").lower() if not host.isascii() else host
    except UnicodeError:
        name = ""
    if not _HOST.fullmatch(name) or len(name) > 253:
        raise BadTarget("a callback URL needs a valid host name")
    return name


def _is_address(host: str) -> bool:
    try:
        parse_address(host)
    except ValueError:
        return False
    return True
