"""What a callback URL may look like."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.callbacks.domain.callback import check_headers, usable_headers
from app.platform.domain.url_rules import (
    BadTarget,
    TargetRules,
    host_of,
    parse_networks,
    parse_ports,
    parse_target,
)

RULES = TargetRules()
OPEN = TargetRules(ports=((1, 65535),), networks=parse_networks(["127.0.0.0/8", "::1"]))


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "path", "authority"),
    [
        ("https://example.com", "https", "example.com", 443, "/", "example.com"),
        ("http://example.com/hook?a=b", "http", "example.com", 80, "/hook?a=b", "example.com"),
        ("https://Example.COM:8443/x", "https", "example.com", 8443, "/x", "example.com:8443"),
        ("https://example.com/a/../b", "https", "example.com", 443, "/a/../b", "example.com"),
        ("https://example.com/%7Ex#part", "https", "example.com", 443, "/%7Ex", "example.com"),
        (
            "https://example.com/提示?q=é",
            "https",
            "example.com",
            443,
            "/%E6%8F%90%E7%A4%BA?q=%C3%A9",
            "example.com",
        ),
        ("https://bücher.example/", "https", "xn--bcher-kva.example", 443, "/", "xn--bcher-kva.example"),
        ("https://[2606:4700::1111]/x", "https", "2606:4700::1111", 443, "/x", "[2606:4700::1111]"),
        ("http://8.8.8.8:8080?x", "http", "8.8.8.8", 8080, "/?x", "8.8.8.8:8080"),
    ],
)
def test_a_url_is_taken_apart(url: str, scheme: str, host: str, port: int, path: str, authority: str) -> None:
    target = parse_target(url, RULES)
    assert (target.scheme, target.host, target.port, target.path) == (scheme, host, port, path)
    assert target.authority == authority


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("ftp://example.com/", "https://"),
        ("file:///etc/passwd", "https://"),
        ("gopher://example.com:80/", "https://"),
        ("javascript:alert(1)", "https://"),
        ("example.com/hook", "https://"),
        ("//example.com/hook", "https://"),
        ("", "https://"),
        ("https://", "host"),
        ("https:///path", "host"),
        ("https://user:secret@example.com/", "password"),
        ("https://user@example.com/", "password"),
        ("https://example.com:22/", "port 22"),
        ("https://example.com:6379/", "port 6379"),
        ("https://example.com:0/", "port 0"),
        ("https://example.com:99999/", "valid URL"),
        ("https://example.com:x/", "valid URL"),
        ("https://exa mple.com/", "spaces"),
        ("https://example.com/a\nb", "control"),
        ("https://example.com\\@10.0.0.1/", "backslashes"),
        ("https://[::1", "valid URL"),
        ("https://-a.example/", "host name"),
        ("https://a..example/", "host name"),
        ("https://[fe80::1%25eth0]/", "host name"),
        ("https://example.com/" + "x" * 2048, "2048"),
        ("http://127.0.0.1/", "callbacks.allow_networks"),
        ("http://[::ffff:127.0.0.1]/", "callbacks.allow_networks"),
        ("http://169.254.169.254/latest/meta-data", "callbacks.allow_networks"),
        ("http://[::]/", "callbacks.allow_networks"),
    ],
)
def test_a_url_that_can_never_be_sent_says_why(url: str, word: str) -> None:
    with pytest.raises(BadTarget, match=word):
        parse_target(url, RULES)


def test_the_refusal_of_a_port_names_its_setting() -> None:
    with pytest.raises(BadTarget, match=r"callbacks\.ports"):
        parse_target("https://example.com:22/", RULES)


@pytest.mark.parametrize("host", ["0x7f.1", "2130706433", "0177.0.0.1", "localhost"])
def test_odd_notations_and_names_are_left_to_the_moment_the_socket_opens(host: str) -> None:
    assert parse_target(f"http://{host}/", RULES).host == host


def test_what_the_operator_allows_is_allowed() -> None:
    assert parse_target("http://127.0.0.1:39999/x", OPEN).port == 39999
    assert parse_target("http://[::1]:1/x", OPEN).authority == "[::1]:1"


@given(st.text(max_size=60))
def test_no_text_at_all_gets_past_without_a_sound_target(url: str) -> None:
    try:
        target = parse_target(url, RULES)
    except BadTarget:
        return
    assert target.scheme in ("http", "https")
    assert target.host.isascii()
    assert target.path.startswith("/")
    assert target.path.isascii()
    assert target.path.isprintable()


@given(st.text(max_size=40))
def test_every_stored_url_has_a_host_to_count_by(url: str) -> None:
    assert host_of(url)


def test_a_trailing_dot_does_not_make_another_host() -> None:
    assert host_of("https://example.com./a") == host_of("https://EXAMPLE.com:443/b") == "example.com:443"


@pytest.mark.parametrize("text", ["0", "65536", "9000-8000", "http", "-1", "", "80-"])
def test_a_faulty_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_ports([text])


def test_ports_are_single_or_ranges() -> None:
    assert parse_ports([80, "443", "8000-9000"]) == ((80, 80), (443, 443), (8000, 9000))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("webhook-id", "evt_1"),
        ("Webhook-Signature", "v1,x"),
        ("Host", "internal"),
        ("Transfer-Encoding", "chunked"),
        ("Content-Length", "0"),
        ("X-A: b\r\nX-Evil", "1"),
        ("X-A", "1\r\nX-Evil: 2"),
        ("X A", "1"),
        ("", "1"),
        ("X-A", "é"),
        ("X-A", "x" * 5000),
    ],
)
def test_headers_that_would_steer_the_request_are_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="header"):
        check_headers({name: value})
    assert usable_headers({name: value, "X-Fine": "1"}) == {"X-Fine": "1"}


def test_more_headers_than_twenty_are_refused() -> None:
    with pytest.raises(ValueError, match="20"):
        check_headers({f"X-{number}": "1" for number in range(21)})
