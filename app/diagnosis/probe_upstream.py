"""Measures the way to an upstream: its name, TCP connections, one TLS handshake, one HTTP GET."""

from __future__ import annotations

import shutil
import socket
import ssl
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import urllib3
from cryptography import x509

from app.diagnosis.domain.doctor_upstream import Connects, Handshake, HopTrace, Lookup, read_hops
from app.diagnosis.probe_service import run_tool
from app.upstreams.domain.reply import FetchedPage

LOOKUPS = 3
CONNECTS = 50
_AT_ONCE = 5  # connections at a time: more would look like an attack to a firewall
_TIMEOUT = 3.0  # seconds for each
HOSTS = Path("/etc/hosts")


def look_up(host: str, port: int, *, hosts: Path = HOSTS) -> Lookup:
    """Resolve a name a few times, and knock at each address once."""
    if _is_address(host):
        return Lookup(host, addresses=(host,))
    seconds, found = [], list[str]()
    try:
        for _ in range(LOOKUPS):
            began = time.monotonic()
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
            seconds.append(time.monotonic() - began)
            found += [str(answer[4][0]) for answer in answers]
    except (OSError, UnicodeError) as error:
        return Lookup(host, error=getattr(error, "strerror", None) or type(error).__name__)
    addresses = tuple(dict.fromkeys(found))
    dead = tuple(address for address in addresses if isinstance(_connect(address, port), str))
    return Lookup(host, tuple(seconds), addresses, dead, _pinned(host, hosts))


def connect_often(addresses: Sequence[str], port: int, *, count: int = CONNECTS) -> Connects:
    """Open `count` connections, five at a time, each to the first address that answers."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        came = list(pool.map(lambda _: _first_of(addresses, port), range(count)))
    errors = Counter(result for result in came if isinstance(result, str))
    seconds = tuple(result for result in came if isinstance(result, float))
    return Connects(count, seconds, errors.most_common(1)[0][0] if errors else "")


def round_trip(url: str, *, count: int = 3) -> float | None:
    """Seconds to a server and back: the quickest of some connections; None where none succeeds."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    took = [_connect(parts.hostname or "", port) for _ in range(count)]
    return min((each for each in took if isinstance(each, float)), default=None)


_MOST_HOPS = 30
_TRACERS = (
    ("traceroute", "-n", "-q", "1", "-w", "1", "-m", str(_MOST_HOPS)),
    ("tracepath", "-n", "-m", str(_MOST_HOPS)),
)
_TRACE_SECONDS = 25.0


def trace_hops(address: str, port: int, *, tracers: Sequence[Sequence[str]] = _TRACERS) -> HopTrace:
    """The routers on the way, by the system's tool; without one, their number, by TCP connections of rising TTL."""
    for name, *options in tracers:
        if (path := shutil.which(name)) is None:
            continue
        _, text = run_tool([path, *options, address], _TRACE_SECONDS)
        if hops := read_hops(text):
            return HopTrace(name, hops)
    if not _within(address, port, _MOST_HOPS):
        return HopTrace(error=f"no traceroute here, and no connection to {address} within {_MOST_HOPS} hops")
    counted = bisect_left(range(1, _MOST_HOPS), True, key=lambda hops: _within(address, port, hops)) + 1
    return HopTrace("TCP", counted=counted)


def _within(address: str, port: int, hops: int) -> bool:
    """Whether packets that live for so many hops reach the host. A refused connection reached it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    level, option = (
        (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)
        if ":" in address
        else (socket.IPPROTO_IP, socket.IP_TTL)
    )
    try:
        with socket.socket(family, socket.SOCK_STREAM) as plain:
            plain.settimeout(_TIMEOUT)
            plain.setsockopt(level, option, hops)
            plain.connect((address, port))
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


def shake_hands(host: str, port: int, context: ssl.SSLContext) -> Handshake:
    """One TLS handshake under the context's own rules; nothing is sent."""
    try:
        with socket.create_connection((host, port), timeout=_TIMEOUT) as plain:
            began = time.monotonic()
            with context.wrap_socket(plain, server_hostname=host) as secured:
                seconds = time.monotonic() - began
                return _handshake(secured, seconds)
    except ssl.SSLCertVerificationError as error:
        return Handshake(error=error.verify_message, untrusted=True)
    except ssl.SSLError as error:
        return Handshake(error=(error.reason or "handshake failed").replace("_", " ").lower())
    except OSError as error:
        return Handshake(error=_socket_error(error))


def _handshake(secured: ssl.SSLSocket, seconds: float) -> Handshake:
    raw: Any = secured.getpeercert(binary_form=True)
    certificate = x509.load_der_x509_certificate(raw)
    names = certificate.issuer.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)
    names += certificate.issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return Handshake(
        seconds,
        secured.version() or "",
        " ".join(str(name.value) for name in names)[:80],
        certificate.not_valid_after_utc.timestamp(),
    )


def _first_of(addresses: Sequence[str], port: int) -> float | str:
    came: float | str = "no address"
    for address in addresses:
        came = _connect(address, port)
        if isinstance(came, float):
            break
    return came


def _connect(address: str, port: int) -> float | str:
    """Seconds until it stood, or why it did not."""
    began = time.monotonic()
    try:
        with socket.create_connection((address, port), timeout=_TIMEOUT):
            return time.monotonic() - began
    except OSError as error:
        return _socket_error(error)


def _socket_error(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {_TIMEOUT:g} s"
    return (error.strerror or type(error).__name__).lower()


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _pinned(host: str, hosts: Path) -> bool:
    """Whether the hosts file names it; `localhost` stands there by right."""
    if host == "localhost" or host.endswith(".localhost"):
        return False
    try:
        lines = hosts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(host in line.partition("#")[0].split()[1:] for line in lines)


_MOST_BYTES = 1024 * 1024
_USER_AGENT = "Penstock-doctor/1"


def get(url: str, *, seconds: float = 10.0) -> FetchedPage:
    """The answer, its headers in lower case, its body if that is JSON. Never raises for what the other side does.

    What the environment says of proxies is not heard.
    """
    asked_at, began = time.time(), time.monotonic()
    with urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(total=seconds)) as pool:
        try:
            headers = {"User-Agent": _USER_AGENT, "Accept": "application/json"}
            answer = pool.request("GET", url, headers=headers, redirect=False, preload_content=False)
            body = answer.read(_MOST_BYTES)
            answer.close()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            return FetchedPage(asked_at=asked_at, seconds=time.monotonic() - began, error=_why(error))
    found = {name.lower(): value for name, value in answer.headers.items()}
    return FetchedPage(answer.status, found, _json(body), time.monotonic() - began, asked_at)


def _json(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _why(error: Exception) -> str:
    """In words that hold nothing of the request."""
    if isinstance(error, urllib3.exceptions.SSLError):
        return "TLS failed"
    if isinstance(error, urllib3.exceptions.NewConnectionError):  # a kind of timeout to urllib3
        return "connection refused"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "no answer in time"
    return type(error).__name__
