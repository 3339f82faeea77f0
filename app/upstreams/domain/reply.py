"""What came back from an upstream: a reply, or what went wrong before one was whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class TransportErrorKind(StrEnum):
    """How a call can fall short of a whole reply. After the first two nothing was sent."""

    NOT_SENT = "not_sent"  # the permit had grown old, or the process is stopping
    UNCONNECTED = "unconnected"  # name, connection or TLS
    BROKEN = "broken"  # the connection ended before an answer began
    CUT = "cut"  # it ended inside the answer
    TIMED_OUT = "timed_out"
    TOO_LARGE = "too_large"
    ABORTED = "aborted"  # by us, at the end of a drain


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole HTTP answer. Header names are in lower case; instants are Unix seconds."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    first_byte_at: float | None = None
    shown: bool = False  # some of it was passed on as it came
    sent_at: float | None = None  # the connection stood, the request began


@dataclass(frozen=True, slots=True)
class TransportError:
    """No whole answer. `status` and `headers` are there when it had begun. `message` holds no secret."""

    trouble: TransportErrorKind
    message: str
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    first_byte_at: float | None = None
    shown: bool = False  # some of the answer was passed on before it went wrong
    sent_at: float | None = None

    @property
    def sent(self) -> bool:
        """Whether any of the request may have reached the upstream."""
        return self.trouble not in (TransportErrorKind.NOT_SENT, TransportErrorKind.UNCONNECTED)


@dataclass(frozen=True, slots=True)
class FetchedPage:
    """One GET. `status` 0: no answer came, `error` says why."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    body: Any = None  # parsed JSON; None when it was none
    seconds: float = 0.0
    asked_at: float = 0.0  # Unix seconds
    error: str = ""
