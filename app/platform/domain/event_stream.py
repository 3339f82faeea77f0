"""Server-sent events, as far as chat completions use them: the data of each, comments left out."""

from __future__ import annotations

DONE = b"[DONE]"
COMMENT = b": waiting\n\n"  # keeps a connection alive; clients ignore it


class EventReader:
    """Reads a stream piece by piece and returns the data of each complete event."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    @property
    def held(self) -> int:
        """Bytes of events that are not whole yet."""
        return len(self._rest) + sum(map(len, self._data))

    def feed(self, received: bytes) -> list[bytes]:
        """The data of the events that these bytes complete."""
        *lines, self._rest = (self._rest + received).split(b"\n")
        return [data for line in lines if (data := self._line(line.removesuffix(b"\r"))) is not None]

    def _line(self, line: bytes) -> bytes | None:
        if not line:
            data, self._data = self._data, []
            return b"\n".join(data) if data else None
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
        return None


def event(data: bytes) -> bytes:
    """One event. `data` is one line."""
    return b"data: " + data + b"\n\n"


def named_event(name: str, data: bytes) -> bytes:
    """One event with a name. `data` is one line."""
    return b"event: " + name.encode() + b"\n" + event(data)
