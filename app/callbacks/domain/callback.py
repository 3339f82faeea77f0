"""What a callback says, when it is tried, and what the reply means.

Follows Standard Webhooks 1.0.0: 2xx is success, everything else is not; redirects are not followed; 410 stops; 429, 502
and 504 ask us to slow down; `Retry-After` is honoured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from app.platform.domain.times import retry_after_seconds, to_rfc3339
from app.tasks.domain.task import CallbackState

MAX_RESULT_BYTES = 256 * 1024  # of a result inside an event; a longer one is fetched by URL


def event(callback_id: str, kind: str, created_at: float, data: Any) -> dict[str, Any]:
    """The body of a callback. `kind` is `task.succeeded`, `batch.completed` and the like.

    Every try sends the same, so that a receiver may compare.
    """
    return {
        "id": callback_id,
        "object": "event",
        "type": kind,
        "created_at": to_rfc3339(created_at),
        "data": data,
    }


def with_result_url(task: Mapping[str, Any], public_url: str) -> dict[str, Any]:
    """A task whose result is too large for an event, with the URL of the result instead.

    `public_url` is where clients reach the API; empty: only the path is given.
    """
    return {**task, "result": None, "result_url": f"{public_url.rstrip('/')}/v1/tasks/{task['id']}"}


MAX_HEADERS = 20
MAX_VALUE_CHARACTERS = 4096
# Headers that a client may not set: ours, and those that control the connection.
_RESERVED = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "webhook-id",
        "webhook-signature",
        "webhook-timestamp",
    }
)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")


def check_headers(headers: Mapping[str, str]) -> None:
    """Check a client's callback headers. Raises ValueError that names the header."""
    if len(headers) > MAX_HEADERS:
        raise ValueError(f"at most {MAX_HEADERS} callback headers")
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _RESERVED:
            raise ValueError(f"callback header {name!r} may not be set")
        if not value.isascii() or not value.isprintable() or len(value) > MAX_VALUE_CHARACTERS:
            raise ValueError(f"callback header {name!r} needs a printable ASCII value")


def usable_headers(headers: Mapping[str, object]) -> dict[str, str]:
    """Those of a client's stored headers that can be sent; the others are left out."""
    usable: dict[str, str] = {}
    for name, value in headers.items():
        try:
            check_headers({name: str(value)})
        except ValueError:
            continue
        usable[name] = str(value)
    return usable


# Seconds to wait before each try of a round, from the end of the try before: the example schedule of Standard
# Webhooks, about three days and four hours in all. The first is sent as soon as the event is recorded.
SCHEDULE: tuple[float, ...] = (
    0,
    5,
    5 * 60,
    30 * 60,
    2 * 3600,
    5 * 3600,
    10 * 3600,
    14 * 3600,
    20 * 3600,
    24 * 3600,
)


JITTER = 0.1  # each wait is drawn from this fraction around the schedule's


LONGEST_RETRY_AFTER_SECONDS = 24 * 3600.0  # what a receiver may ask for


SLOW_SECONDS = 60.0  # the minimum wait after a 429, 502 or 504 without Retry-After


SLOW_CODES = frozenset({429, 502, 504})


LONGEST_PAUSE_SECONDS = 300.0  # the longest pause of a host's other callbacks after one reply


GONE = 410


class HostHealth(StrEnum):
    """What a reply says about the host as a whole."""

    GOOD = "good"  # it answered, whatever it said
    BAD = "bad"  # no reply in time, no connection, no valid TLS, or 5xx
    UNKNOWN = "unknown"  # nothing was sent


@dataclass(frozen=True, slots=True)
class SignedCallback:
    """One try, ready to be sent by POST: signed, with the client's own headers."""

    url: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class DeliveryReply:
    """The result of sending: a status, or why there is none. The body is discarded."""

    status_code: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)  # `retry-after` and `date`, if present
    error: str | None = None  # fit for the client to see
    hopeless: bool = False  # no later try can succeed: the URL itself is refused
    sent: bool = True  # False: nothing left this machine


@dataclass(frozen=True, slots=True)
class DeliveryVerdict:
    """What to record after a try, and how long to pause the host's other callbacks."""

    state: CallbackState  # DELIVERED, PENDING (again at `next_at`) or FAILED
    health: HostHealth
    next_at: float | None = None
    error: str | None = None
    pause_seconds: float = 0.0


def judge(answer: DeliveryReply, *, tries: int, now: float, chance: float) -> DeliveryVerdict:
    """Decide what a reply means after `tries` tries of this round, this one included.

    `chance` in [0, 1) spreads the next try.
    """
    code = answer.status_code
    if code is not None and 200 <= code < 300:
        return DeliveryVerdict(CallbackState.DELIVERED, HostHealth.GOOD)
    health, error = _health(answer), _error(answer)
    if answer.hopeless or code == GONE:
        return DeliveryVerdict(CallbackState.FAILED, health, error=error)
    asked = retry_after_seconds(answer.headers, now, LONGEST_RETRY_AFTER_SECONDS)
    pause = _pause(code, asked)
    if tries >= len(SCHEDULE):
        error = f"{error}; given up after {tries} tries"
        return DeliveryVerdict(CallbackState.FAILED, health, error=error, pause_seconds=pause)
    wait = wait_seconds(tries, chance)
    if code in SLOW_CODES or asked is not None:
        least = SLOW_SECONDS if asked is None else asked
        wait = max(wait, least * (1 + JITTER * chance))
    return DeliveryVerdict(
        CallbackState.PENDING, health, next_at=now + wait, error=error, pause_seconds=pause
    )


def wait_seconds(tries: int, chance: float) -> float:
    """The wait after `tries` tries of a round (1 to 9): the schedule's, within JITTER of it."""
    return SCHEDULE[tries] * (1 - JITTER + 2 * JITTER * chance)


def _pause(code: int | None, asked: float | None) -> float:
    """How long to pause the other callbacks of a host that asks us to slow down."""
    if code not in SLOW_CODES:
        return 0.0
    return min(SLOW_SECONDS if asked is None else asked, LONGEST_PAUSE_SECONDS)


def _health(answer: DeliveryReply) -> HostHealth:
    if not answer.sent and answer.hopeless:
        return HostHealth.UNKNOWN
    return HostHealth.BAD if answer.status_code is None or answer.status_code >= 500 else HostHealth.GOOD


def _error(answer: DeliveryReply) -> str:
    code = answer.status_code
    if code is None:
        return answer.error or "no answer"
    if code == GONE:
        return "410: the receiver wants no more"
    if 300 <= code < 400:
        return f"{code}: redirects are not followed"
    return f"{code}: the receiver did not accept it"


class CallbackNotifier(Protocol):
    """Notifies callback workers of what is due. Used by many threads."""

    def room(self) -> int:
        """How many more messages their queue may hold; 0 also while Redis does not answer. Never raises."""

    def notify(self, callback_ids: Sequence[str]) -> Sequence[str]:
        """Publish a message for each; returns those it could not publish, which the feeder finds. Never raises."""


class NoCallbackNotifier:
    """Notifies nobody: the leader's feeder finds what is due within a second."""

    def room(self) -> int:
        """None."""
        return 0

    def notify(self, callback_ids: Sequence[str]) -> Sequence[str]:
        """Publishes nothing."""
        return callback_ids


class CallbackSender(Protocol):
    """Sends callbacks to their receivers. Used by many threads."""

    def send(self, callback: SignedCallback) -> DeliveryReply:
        """Send it and return the reply. Never raises for what a receiver does."""

    def close(self) -> None:
        """Close what is kept open between callbacks."""
