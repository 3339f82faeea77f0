"""What a caller asks for, in body and headers. Well-formed, not yet checked against the configuration."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from app.caching.domain.caching import CacheParams
from app.platform.domain.errors import Invalid
from app.platform.domain.times import DAY
from app.tasks.domain.task import Priority

Order = Literal["arrival", "deadline"]

DEFAULT_EXPIRY = DAY  # seconds
LONGEST_EXPIRY = 30 * DAY  # seconds; also how far ahead `run_at` may lie


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """One prompt to run."""

    messages: Sequence[Mapping[str, Any]]
    model: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)  # the rest of the upstream body
    priority: Priority | None = None
    callback_url: str | None = None
    expires_in: float | None = None  # seconds from when it may run
    run_at: float | None = None  # Unix seconds
    allow_degraded: bool | None = None  # whether a configured text may answer it; None: the batch's setting
    order: Order | None = None  # its order in the client's queue; None: the client's setting
    off_peak: bool = False  # only in its upstream's off-peak hours, or earlier if its deadline requires it
    metadata: Mapping[str, str] | None = None
    custom_id: str | None = None
    retry: str | None = None  # name of a retry policy
    cache: CacheParams | None = None
    stream: bool = False  # the answer is streamed to a waiting client
    store: bool | None = (
        None  # False: prompt and result are erased once delivered; None: the client's setting
    )


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """Options for all requests of a batch; a request's own option takes precedence."""

    model: str | None = None
    priority: Priority | None = None
    batch_size: int | None = None  # how many of its tasks may be in flight at once
    callback_url: str | None = None  # receives one callback, when the batch has ended
    expires_in: float = DEFAULT_EXPIRY  # seconds; no task of the batch outlives it
    metadata: Mapping[str, str] | None = None
    retry: str | None = None
    allow_degraded: bool | None = None  # None: the client's setting, else the model's
    order: Order | None = None
    run_at: float | None = None  # Unix seconds
    off_peak: bool = False


# Who does not say how long they wait: Node's fetch ends a call without response headers after 300 s (undici,
# headersTimeout), whatever timeout a client has set; proxies' usual limit is 60 s (nginx proxy_read_timeout,
# idle timeouts of cloud load balancers).
UNTOLD_TIMEOUT = NODE_TIMEOUT = 300.0  # seconds
UNTOLD_PROXY_TIMEOUT = 60.0  # seconds
_PROXY_HEADERS = ("x-forwarded-for", "forwarded", "via", "x-real-ip", "cf-ray")
_HEADROOM = 5.0  # an answer is sent this many seconds before the client's read timeout
_TIMEOUT_HEADERS = ("x-stainless-read-timeout", "x-stainless-timeout")
_COUNT_HEADER = "x-stainless-retry-count"


@dataclass(frozen=True, slots=True)
class Patience:
    """`seconds` that a call may wait; `repeats`: its client says that it retries by itself; `tries` before this one."""

    seconds: float
    repeats: bool = False
    tries: int = 0


def read_patience(header: Callable[[str], str | None], proxy_timeout: float = 0.0) -> Patience:
    """Read the headers of a request; `header` returns a header's value by its name in lower case.

    The OpenAI clients send their timeout and retry count. `proxy_timeout`: seconds after which a proxy in front ends a
    call, if configured; it counts for calls that came through one.
    """
    told = next(filter(None, (_seconds(header(name)) for name in _TIMEOUT_HEADERS)), None)
    limits = [UNTOLD_TIMEOUT if told is None else told]
    if header("x-stainless-lang") == "js":
        limits.append(NODE_TIMEOUT)
    if any(map(header, _PROXY_HEADERS)):
        limits += [proxy_timeout] if proxy_timeout else [UNTOLD_PROXY_TIMEOUT] if told is None else []
    count = header(_COUNT_HEADER)
    tries = int(count) if count and count.isascii() and count.isdigit() and len(count) < 6 else 0
    return Patience(_waiting(min(limits)), count is not None, tries)


def _waiting(timeout: float) -> float:
    """A client with a very short timeout gets half of it."""
    return max(timeout - _HEADROOM, timeout / 2)


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return min(seconds, 86400.0) if seconds > 0 and math.isfinite(seconds) else None


PREFER = "Prefer"


@dataclass(frozen=True, slots=True)
class Preference:
    """The preferences of the header `Prefer`. `wait`: seconds; None: not given."""

    respond_async: bool = False
    wait: float | None = None

    def applied(self) -> str:
        """The value of `Preference-Applied`."""
        words = ["respond-async"] if self.respond_async else []
        return ", ".join(words if self.wait is None else [*words, f"wait={self.wait:g}"])


def parse_prefer(header: str | None) -> Preference:
    """Read the header (RFC 7240). Unknown and malformed preferences are ignored, as the RFC requires."""
    respond_async, wait = False, None
    for part in (header or "").split(","):
        name, _, value = part.partition(";")[0].partition("=")
        name, value = name.strip().lower(), value.strip().strip('"')
        if name == "respond-async":
            respond_async = True
        elif name == "wait" and wait is None and value.isascii() and value.isdigit() and len(value) <= 9:
            wait = float(value)
    return Preference(respond_async, wait)


KEPT_SECONDS = DAY  # how long a key is remembered
IDEMPOTENCY_KEY = "Idempotency-Key"
LONGEST = 255  # characters


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A key, and the fingerprint of the request it came with."""

    key: str
    fingerprint: str  # SHA-256 of operation and payload, hexadecimal


class Fingerprint:
    """Computes a fingerprint of a payload, piece by piece."""

    def __init__(self, operation: str) -> None:
        self._digest = hashlib.sha256(operation.encode() + b"\n")

    def add(self, piece: bytes) -> None:
        """Add the next piece."""
        self._digest.update(piece)

    def text(self) -> str:
        """The fingerprint, in hexadecimal."""
        return self._digest.hexdigest()


def parse_key(header: str | None) -> str | None:
    """Read an Idempotency-Key, with or without the quotes of a structured header. Raises Invalid."""
    if header is None:
        return None
    key = header.strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not 1 <= len(key) <= LONGEST or not key.isascii() or not key.isprintable():
        raise Invalid(
            f"{IDEMPOTENCY_KEY}: must have 1 to {LONGEST} printable ASCII characters",
            param=IDEMPOTENCY_KEY,
            code="invalid_value",
        )
    return key


def check_repeat(repeat: IdempotencyKey, recorded: str) -> None:
    """Refuse a key already used with another payload; `recorded` is the fingerprint recorded first."""
    if repeat.fingerprint != recorded:
        raise Invalid(
            f"{IDEMPOTENCY_KEY}: this key was used with another payload in the last 24 hours; use a new key",
            param=IDEMPOTENCY_KEY,
            code="idempotency_key_reused",
            status=422,
        )
