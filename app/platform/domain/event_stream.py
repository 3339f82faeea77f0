"""Server-sent events: written as the standard has them, read as providers send them."""

from __future__ import annotations

import re
from dataclasses import dataclass

DONE = b"[DONE]"
# Keeps a connection alive; clients ignore it. One newline: some clients end an event at every blank line.
COMMENT = b": waiting\n"

_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\n|\r")
_LONGEST_NAME = 64  # bytes


@dataclass(frozen=True, slots=True)
class ReadEvent:
    """One event that was read. `name` is empty where its sender gave none."""

    data: bytes
    name: str = ""


class EventReader:
    """Reads a stream piece by piece and returns the events that hold data, however the stream is cut.

    The standard's forms: any line end, a byte order mark, comments, fields that we do not need. Beyond it, since
    providers send them: events with only one line end between them, "data: data:", bare lines of JSON without a field
    name, a last event without its blank line (`close`).
    """

    def __init__(self) -> None:
        self._rest = b""
        self._after_cr = False  # a line feed may follow that belongs to the line end before
        self._begun = False
        self._name = ""
        self._data: list[bytes] = []

    @property
    def held(self) -> int:
        """Bytes of events that are not whole yet."""
        return len(self._rest) + sum(map(len, self._data))

    def feed(self, received: bytes) -> list[ReadEvent]:
        """The events that these bytes complete."""
        if not received:
            return []
        if self._after_cr:
            received = received.removeprefix(b"\n")
        self._after_cr = received.endswith(b"\r")
        *lines, self._rest = _LINE_END.split(self._rest + received)
        return [event for line in lines for event in self._line(line)]

    def close(self) -> list[ReadEvent]:
        """The events that the end of the stream completes; the last may be cut off."""
        line, self._rest = self._rest, b""
        return [*self._line(line), *self._event()]

    def _line(self, line: bytes) -> list[ReadEvent]:
        if not self._begun:
            line, self._begun = line.removeprefix(_BOM), True
        if not line:
            return self._event()
        name, colon, value = line.partition(b":")
        if name == b"event" and colon:
            self._name = value.strip()[:_LONGEST_NAME].decode("utf-8", "replace")
        elif name == b"data":
            return self._add(_unwrapped(value))
        elif (
            name
            and name not in (b"id", b"retry", b"event")
            and (self._data or line.lstrip()[:1] in (b"{", b"["))
        ):
            return self._add(line)
        return []

    def _add(self, value: bytes) -> list[ReadEvent]:
        whole = self._event() if _is_next(self._data, value) else []
        if self._data or value.strip():
            self._data.append(value)
        return whole

    def _event(self) -> list[ReadEvent]:
        event = ReadEvent(b"\n".join(self._data), self._name)
        self._data, self._name = [], ""
        return [event] if event.data.strip() else []


def _unwrapped(value: bytes) -> bytes:
    value = value.removeprefix(b" ")
    while value.lstrip().startswith(b"data:"):  # a relay that adds its own field name
        value = value.lstrip().removeprefix(b"data:").removeprefix(b" ")
    return value


def _is_next(data: list[bytes], value: bytes) -> bool:
    """Whether a data line begins another event: within JSON, no object follows another without a comma."""
    before = next((line.rstrip() for line in reversed(data) if line.strip()), b"")
    value = value.strip()
    opens = value.startswith(b"{") or value == DONE
    return opens and (before.endswith(b"}") or before.strip() == DONE)


def event(data: bytes) -> bytes:
    """One event. `data` is one line."""
    return b"data: " + data + b"\n\n"


def named_event(name: str, data: bytes, last_id: str = "") -> bytes:
    """One event with a name. `data` is one line; a client that connects again sends the `last_id` it has seen."""
    given = f"id: {last_id}\n" if last_id else ""
    return f"event: {name}\n{given}".encode() + event(data)
