"""What came back from an upstream: a reply, a transport error, or a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class TransportErrorKind(StrEnum):
    """Why a call has no complete reply. With the first two, nothing was sent."""

    NOT_SENT = "not_sent"  # the permit was too old, or the process is stopping
    UNCONNECTED = "unconnected"  # name, connection or TLS
    BROKEN = "broken"  # the connection ended before the answer began
    CUT = "cut"  # it ended within the answer
    TIMED_OUT = "timed_out"
    TOO_LARGE = "too_large"
    ABORTED = "aborted"  # by this process, at the end of a drain


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete HTTP answer. Header names are lower case, instants Unix seconds."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    first_byte_at: float | None = None
    shown: bool = False  # part of it was passed on as it arrived
    sent_at: float | None = None  # when the request began, on an open connection


@dataclass(frozen=True, slots=True)
class TransportError:
    """No complete answer. `status` and `headers` are set if it had begun. `message` contains no secret."""

    trouble: TransportErrorKind
    message: str
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    first_byte_at: float | None = None
    shown: bool = False  # part of the answer was passed on before the error
    sent_at: float | None = None

    @property
    def sent(self) -> bool:
        """Whether any of the request may have reached the upstream."""
        return self.trouble not in (TransportErrorKind.NOT_SENT, TransportErrorKind.UNCONNECTED)


@dataclass(frozen=True, slots=True)
class FetchedPage:
    """A page, fetched by one GET. `status` 0: no answer, `error` says why."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    body: Any = None  # parsed JSON; None when it was none
    seconds: float = 0.0
    asked_at: float = 0.0  # Unix seconds
    error: str = ""
