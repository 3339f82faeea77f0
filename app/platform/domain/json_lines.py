"""Lines out of a stream of bytes, wherever that is cut."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from app.platform.domain.errors import Invalid

MOST_BLANK = 1_000_000  # lines
_SPACE = 0x20
_MARK = b"\xef\xbb\xbf"
_BLANK = re.compile(rb"[ \t\n\r\x0b\f]*+")  # what bytes.strip() takes away


def lines(chunks: Iterable[bytes], longest: int) -> Iterator[tuple[int, bytes]]:
    """Split into (line number from 1, line); blank lines are left out.

    Raises Invalid above `longest` bytes of a line, and above a million blank lines.
    """
    reader = _Reader(longest)
    for chunk in chunks:
        yield from reader.read(chunk)
    yield from reader.end()


class _Reader:
    """Runs of blank lines are passed over as a whole: a bomb of newlines is a matter of counting them."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._number = 1
        self._blank = 0
        self._begun: list[bytes] = []  # parts of a line; the first holds more than blanks
        self._size = 0

    def read(self, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        place = 0
        while place < len(chunk):
            if not self._begun and chunk[place] <= _SPACE:
                place = self._pass_blank(chunk, place)
            end = chunk.find(b"\n", place)
            self._add(chunk[place : len(chunk) if end < 0 else end])
            if end < 0:
                break
            place = end + 1
            yield from self.end()
        if self._size > self._longest:
            message = f"line {self._number}: longer than {self._longest} bytes"
            raise Invalid(message, code="request_too_large", status=413)

    def end(self) -> Iterator[tuple[int, bytes]]:
        """Of the line that has begun, if any."""
        if not self._begun:
            return
        line = b"".join(self._begun).strip()
        if self._number == 1:
            line = line.removeprefix(_MARK)
        if line:
            yield self._number, line
        self._begun, self._size, self._number = [], 0, self._number + 1

    def _add(self, part: bytes) -> None:
        if part:
            self._begun.append(part)
            self._size += len(part)

    def _pass_blank(self, chunk: bytes, place: int) -> int:
        found = _BLANK.match(chunk, place)
        end = found.end() if found else place
        blank = chunk.count(b"\n", place, end)
        self._number += blank
        self._blank += blank
        if self._blank > MOST_BLANK:
            raise Invalid(f"line {self._number}: more than {MOST_BLANK} blank lines", code="invalid_value")
        return end
