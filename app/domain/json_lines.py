"""Lines out of a stream of bytes, wherever that is cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from app.domain.errors import Invalid


def lines(chunks: Iterable[bytes], longest: int) -> Iterator[tuple[int, bytes]]:
    """Split into (line number from 1, line); blank lines are left out. Raises Invalid above `longest` bytes."""
    number, parts, size = 1, [b""], 0  # of the line that has begun
    for chunk in chunks:
        first, *more = chunk.split(b"\n")
        parts.append(first)
        size += len(first)
        for next_line in more:
            if line := _line(parts, number):
                yield number, line
            number, parts, size = number + 1, [next_line], len(next_line)
        if size > longest:
            raise Invalid(f"line {number}: longer than {longest} bytes", code="request_too_large", status=413)
    if line := _line(parts, number):
        yield number, line


def _line(parts: list[bytes], number: int) -> bytes:
    line = b"".join(parts).strip()
    return line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
