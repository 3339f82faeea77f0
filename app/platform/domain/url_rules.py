"""Which URLs and addresses callbacks may reach."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote, urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

NETWORKS_SETTING = "callbacks.allow_networks"

# Services that hand out a machine's credentials to whoever asks from it. Not all stand in private ranges;
# none is reached through a wider allowed network, only by an entry that names exactly the address.
METADATA = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Google, Azure, and most others
        "169.254.170.2",  # AWS container credentials
        "169.254.169.253",  # AWS resolver
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure's host
        "192.0.0.192",  # Oracle
        "fd00:ec2::254",  # AWS over IPv6
        "fd20:ce::254",  # Google over IPv6
    )
)

_KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("unspecified", ("0.0.0.0/8", "::/128")),
    ("loopback", ("127.0.0.0/8", "::1/128")),
    ("private", ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10")),
    ("link-local", ("169.254.0.0/16", "fe80::/10")),
    ("carrier-grade NAT", ("100.64.0.0/10",)),
    ("multicast", ("224.0.0.0/4", "ff00::/8")),
    ("a tunnel", ("2001::/32", "2002::/16")),
    (
        "reserved",
        (
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "240.0.0.0/4",
            "100::/64",
            "2001:2::/48",
            "2001:db8::/32",
            "2001:10::/28",
            "2001:20::/28",
            "3fff::/20",
            "5f00::/16",
        ),
    ),
)
_REFUSED: tuple[tuple[str, Network], ...] = tuple(
    (kind, ip_network(network)) for kind, networks in _KINDS for network in networks
)
_PUBLIC_V6 = IPv6Network("2000::/3")  # the only part of IPv6 in public use
_MAPPED = IPv6Network("::ffff:0:0/96")
_NAT64 = IPv6Network(
    "64:ff9b::/96"
)  # how a network without IPv4 reaches all of it; judged by what it carries
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})  # the half of an interface's identifier that marks it


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Read networks such as "10.1.0.0/16" or "127.0.0.1". Raises ValueError naming the faulty one."""
    return tuple(ip_network(text, strict=False) for text in texts)


def parse_address(text: str) -> Address:
    """Read an address as a resolver gives it: a scope ("fe80::1%eth0") is dropped, a mapped one is its IPv4.

    Raises ValueError when it is no address.
    """
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address) and address in _MAPPED:
        return _last_four_bytes(address)
    return address


def why_refused(text: str, allowed: Sequence[Network] = ()) -> str | None:
    """Say what kind of forbidden address this is ("loopback", "private" ...); None: it may be reached."""
    address = parse_address(text)
    if _is_allowed(address, allowed):
        return None
    carried = _carried(address)
    return _kind(address) or (_kind(carried) if carried is not None else None)


def _is_allowed(address: Address, allowed: Sequence[Network]) -> bool:
    """An operator's network covers the address; a metadata address must be named alone."""
    wide = address not in METADATA
    return any(address in network for network in allowed if wide or network.num_addresses == 1)


def _kind(address: Address) -> str | None:
    if address in METADATA:
        return "a metadata service"
    for kind, network in _REFUSED:
        if address in network:
            return kind
    foreign = isinstance(address, IPv6Address) and address not in _PUBLIC_V6 and address not in _NAT64
    return "reserved" if foreign else None


def _carried(address: Address) -> IPv4Address | None:
    """The IPv4 address that packets to this IPv6 address end at, if its notation says so."""
    if isinstance(address, IPv6Address) and (address in _NAT64 or int(address) >> 32 & 0xFFFFFFFF in _ISATAP):
        return _last_four_bytes(address)
    return None


def _last_four_bytes(address: IPv6Address) -> IPv4Address:
    return IPv4Address(int(address) & 0xFFFFFFFF)


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
