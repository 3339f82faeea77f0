"""gzip as it comes in: any number of members one behind the other are one text (RFC 1952, 2.2)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

MOST_MEMBERS = 100_000  # each costs some 10 us; block gzip of 512 MiB has 8,192
_FIRST, _WHOLE = (
    512,
    64 * 1024,
)  # bytes handed to zlib at a time: few to a new member, for it copies what it leaves


class BadGzip(ValueError):
    """It is no gzip; the message says in what way."""


class Members:
    """Unpacks piece by piece. Linear in what comes in and goes out."""

    def __init__(self) -> None:
        self._at_a_time = _FIRST
        self._fresh = True
        self._zlib = zlib.decompressobj(wbits=31)
        self._ended = 0

    @property
    def whole(self) -> bool:
        """Whether what has come so far ends where a member ends."""
        return self._ended > 0 and self._fresh

    def unpack(self, packed: bytes, most: int) -> Iterator[bytes]:
        """Unpack the next piece, `most` bytes at a time. Raises BadGzip."""
        place = 0
        while place < len(packed):
            given = packed[place : place + self._at_a_time]
            place += len(given)
            self._at_a_time = min(2 * self._at_a_time, _WHOLE)
            yield from self._unpack(given, most)
            if self._zlib.eof:
                place -= len(self._zlib.unused_data)
                self._end()

    def _unpack(self, given: bytes, most: int) -> Iterator[bytes]:
        self._fresh = False
        while out := self._next(given, most):
            yield out
            given = self._zlib.unconsumed_tail

    def _next(self, given: bytes, most: int) -> bytes:
        try:
            return self._zlib.decompress(given, most)
        except zlib.error:
            where = "what follows its end is not gzip" if self._ended else "it is damaged, or something else"
            raise BadGzip(where) from None

    def _end(self) -> None:
        self._ended += 1
        if self._ended >= MOST_MEMBERS:
            raise BadGzip(f"more than {MOST_MEMBERS} members, pack it as one")
        self._begin()

    def _begin(self) -> None:
        self._zlib, self._fresh, self._at_a_time = zlib.decompressobj(wbits=31), True, _FIRST
