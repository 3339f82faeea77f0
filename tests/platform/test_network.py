"""Which addresses callbacks may reach."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.platform.domain.url_rules import METADATA, parse_address, parse_networks, why_refused

FORBIDDEN = [
    ("127.0.0.1", "loopback"),
    ("127.255.255.254", "loopback"),
    ("::1", "loopback"),
    ("0.0.0.0", "unspecified"),
    ("0.1.2.3", "unspecified"),
    ("::", "unspecified"),
    ("10.0.0.1", "private"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private"),
    ("192.168.1.1", "private"),
    ("fd12:3456::1", "private"),
    ("fec0::1", "private"),
    ("169.254.0.1", "link-local"),
    ("fe80::1", "link-local"),
    ("fe80::1%eth0", "link-local"),
    ("100.64.0.1", "carrier-grade NAT"),
    ("100.127.255.255", "carrier-grade NAT"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.250", "multicast"),
    ("ff02::1", "multicast"),
    ("255.255.255.255", "reserved"),
    ("240.0.0.1", "reserved"),
    ("192.0.2.1", "reserved"),
    ("198.18.0.1", "reserved"),
    ("2001:db8::1", "reserved"),
    ("4000::1", "reserved"),
    ("169.254.169.254", "a metadata service"),
    ("100.100.100.200", "a metadata service"),
    ("168.63.129.16", "a metadata service"),
    ("fd00:ec2::254", "a metadata service"),
    # an IPv4 address inside an IPv6 one
    ("::ffff:127.0.0.1", "loopback"),
    ("::ffff:7f00:1", "loopback"),
    ("::ffff:169.254.169.254", "a metadata service"),
    ("::127.0.0.1", "reserved"),
    ("::ffff:0:10.0.0.1", "reserved"),
    ("64:ff9b::10.0.0.1", "private"),
    ("64:ff9b::a9fe:a9fe", "a metadata service"),
    ("64:ff9b:1::10.0.0.1", "reserved"),
    ("2002:7f00:1::", "a tunnel"),
    ("2002:c0a8:101::1", "a tunnel"),
    ("2001:0:4136:e378:8000:63bf:f5ff:fffe", "a tunnel"),
    ("2a00:1450::5efe:10.0.0.1", "private"),  # ISATAP
]


@pytest.mark.parametrize(("address", "kind"), FORBIDDEN)
def test_addresses_inside_are_refused_by_kind(address: str, kind: str) -> None:
    assert why_refused(address) == kind


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "1.1.1.1",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
    ],
)
def test_addresses_of_the_public_internet_are_reached(address: str) -> None:
    assert why_refused(address) is None


@given(st.integers(0, 2**32 - 1).map(IPv4Address))
def test_no_ipv4_address_is_reached_that_is_not_global(address: IPv4Address) -> None:
    if why_refused(str(address)) is None:
        assert address.is_global
        assert not address.is_multicast


@given(st.integers(0, 2**128 - 1).map(IPv6Address))
def test_no_ipv6_address_is_reached_that_is_not_global(address: IPv6Address) -> None:
    if why_refused(str(address)) is None and not isinstance(parse_address(str(address)), IPv4Address):
        assert address.is_global or address in parse_networks(["64:ff9b::/96"])[0]
        assert not address.is_multicast


@given(st.integers(0, 2**32 - 1).map(IPv4Address))
def test_every_notation_of_a_refused_ipv4_address_is_refused(address: IPv4Address) -> None:
    if why_refused(str(address)) is None:
        return
    value = int(address)
    for carried in (
        IPv6Address(0xFFFF << 32 | value),
        IPv6Address(int(IPv6Address("64:ff9b::")) | value),
        IPv6Address(0x2002 << 112 | value << 80 | 1),
        IPv6Address(0x20010000 << 96 | 0x08080808 << 64 | value ^ 0xFFFFFFFF),
        IPv6Address(value),
    ):
        assert why_refused(str(carried)) is not None, carried


@given(st.integers(0, 2**32 - 1), st.integers(0, 32))
def test_an_allowed_network_opens_itself_and_nothing_else(value: int, prefix: int) -> None:
    network = IPv4Network((value >> (32 - prefix) << (32 - prefix), prefix))
    inside = network[network.num_addresses // 2]
    if inside not in METADATA:
        assert why_refused(str(inside), [network]) is None
        assert why_refused(f"::ffff:{inside}", [network]) is None
    outside = ip_address("127.0.0.1")
    if outside not in network:
        assert why_refused(str(outside), [network]) == "loopback"


def test_a_metadata_address_is_reached_only_when_it_is_named_alone() -> None:
    wide, exact = parse_networks(["169.254.0.0/16"]), parse_networks(["169.254.169.254"])
    assert why_refused("169.254.169.254", wide) == "a metadata service"
    assert why_refused("169.254.0.7", wide) is None
    assert why_refused("169.254.169.254", exact) is None


def test_an_allowed_private_network_does_not_open_its_tunnel_notations() -> None:
    assert why_refused("2002:a00:1::", parse_networks(["10.0.0.0/8"])) == "a tunnel"


@pytest.mark.parametrize("text", ["10.0.0.0/33", "example.com", "", "10.0.0"])
def test_a_faulty_network_is_named(text: str) -> None:
    with pytest.raises(ValueError):
        parse_networks([text])
