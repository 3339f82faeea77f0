"""Which addresses a callback may reach. Decided on the address itself, after the name has been resolved.

Only addresses of the public internet are reached, unless the operator allows a network. Notations that put an
IPv4 address into an IPv6 one do not help: a mapped one is its IPv4 address, NAT64 and ISATAP are judged by both,
6to4, Teredo and the deprecated forms are refused as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

SETTING = "callbacks.allow_networks"

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
