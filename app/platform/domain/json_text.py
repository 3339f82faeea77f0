"""JSON as text: documents on one line that our own parser can read again, JSON Lines, and where values end."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from app.platform.domain.errors import Invalid

# Reads JSON; raises ValueError for what is none. The very parser that will read a stored result again.
Parse = Callable[[bytes], Any]

BOM = b"\xef\xbb\xbf"
_SPACING = b" \t\r\n"
# Stand-ins, so that every quote left bounds a string: JSON holds no such bytes itself.
_ESCAPES = ((b"\\\\", b"\x00"), (b'\\"', b"\x01"))
_SURROGATES = re.compile("[\ud800-\udfff]")


def one_line(text: str) -> str:
    """JSON text on one line, as results of older releases may not be."""
    return compact(text) if "\n" in text or "\r" in text else text


def compact(text: str) -> str:
    """JSON text without spacing; nothing else changes, no digit of a number either."""
    raw = text.encode()
    for escape, stand_in in _ESCAPES:
        raw = raw.replace(escape, stand_in)
    parts = raw.split(b'"')
    parts[::2] = b'"'.join(parts[::2]).translate(None, _SPACING).split(b'"')
    raw = b'"'.join(parts)
    for escape, stand_in in reversed(_ESCAPES):
        raw = raw.replace(stand_in, escape)
    return raw.decode()


def read_json(body: bytes, parse: Parse) -> tuple[Any, str]:
    """A document and its text on one line, without spacing. Raises ValueError for what is no JSON.

    What parsers are strict about and upstreams are not is put right, since it was paid for: a byte order mark, NaN
    and infinities (null), half a surrogate pair and broken UTF-8 (U+FFFD), raw control characters in strings.
    """
    body = body.strip().removeprefix(BOM).strip()
    try:
        return parse(body), compact(body.decode())
    except ValueError:
        text = compact(_strict(as_utf8(body).decode("utf-8", "replace")))
    return parse(text.encode()), text


def read_document(body: bytes, parse: Parse) -> tuple[Any, str]:
    """As read_json; of an object with anything behind it (itself again, `[DONE]`, a comment) that object."""
    try:
        return read_json(body, parse)
    except ValueError:
        text = as_utf8(body.strip().removeprefix(BOM)).decode("utf-8", "replace").lstrip()
    if not text.startswith("{"):
        raise ValueError("no JSON")
    try:
        _, end = _LENIENT.raw_decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return read_json(text[:end].encode(), parse)


_LENIENT = json.JSONDecoder(strict=False)


def as_utf8(body: bytes, charset: str = "") -> bytes:
    """A body in UTF-8. `charset`, which its header claims, counts only where the body is no Unicode."""
    encoding = json.detect_encoding(body)
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError:
        try:
            text = body.decode(charset or encoding, "replace")
        except (LookupError, ValueError):  # unknown, or not for text
            return body
    else:
        if encoding == "utf-8":
            return body
    return text.encode("utf-8", "replace")


def _strict(text: str) -> str:
    try:
        document = json.loads(text, parse_constant=_null, parse_float=_finite, strict=False)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    plain = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return _SURROGATES.sub("\ufffd", plain)


def _null(_name: str) -> None:
    return None


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


# An escaped character, a whole pair of surrogates, half of one; and halves written as bytes, which UTF-8 has not.
_ESCAPED = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
_HALF_BYTES = re.compile(rb"(?:\xed[\xa0-\xbf][\x80-\xbf])+")


def whole_characters(raw: bytes) -> bytes:
    """JSON with U+FFFD for half surrogate pairs, such as an emoji that was cut in two. Nothing else changes."""
    joined = _HALF_BYTES.sub(_joined, raw)
    return _ESCAPED.sub(lambda found: b"\\ufffd" if found[1] else found[0], joined)


def _joined(found: re.Match[bytes]) -> bytes:
    """Halves that make a pair become its character (CESU-8 has it so)."""
    text = found[0].decode("utf-8", "surrogatepass").encode("utf-16-le", "surrogatepass")
    return text.decode("utf-16-le", "replace").encode()


_GZIP = 31  # zlib's word for gzip with the largest window


def gzipped(pieces: Iterable[bytes], level: int) -> Iterator[bytes]:
    """Pieces of text as one gzip stream; memory use stays flat. A generator among them is closed with it."""
    packer = zlib.compressobj(level, zlib.DEFLATED, _GZIP)
    try:
        for piece in pieces:
            if packed := packer.compress(piece):
                yield packed
        yield packer.flush()
    finally:
        if isinstance(pieces, Generator):
            pieces.close()


MOST_BLANK = 1_000_000  # lines
_SPACE_BYTE = 0x20
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
            if not self._begun and chunk[place] <= _SPACE_BYTE:
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
            line = line.removeprefix(BOM)
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


MOST_VALUES = 250_000  # of one task, estimated to take 22 MB at most as empty objects of 88 bytes
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_STRINGS = re.compile(_STRING, re.DOTALL)
_BRACKET = re.compile(rb'[^"\[\]{}]*+(?:' + _STRING + rb'[^"\[\]{}]*+)*+([\[\]{}])', re.DOTALL)
_PIECE = re.compile(rb'[^"]*+(?:' + _STRING + rb'[^"]*+){1,4096}+|[^"]++|"', re.DOTALL)
_SCALAR = re.compile(rb'[^\s,\[\]{}"]++')
_SPACE = re.compile(rb"[ \t\n\r]*+")
_OPENING = (b"[", b"{")


class Malformed(Exception):
    """Not JSON; a parser of JSON can say where."""


def check_values(raw: bytes, most: int = MOST_VALUES) -> None:
    """Raise Invalid when `raw` holds more than about `most` values: each begins a list, an object, or follows a comma.

    What stands in strings does not count. Takes time for the first `most` alone.
    """
    if len(raw) <= most or _marks(raw) <= most:
        return
    count = place = 0
    while place < len(raw) and (piece := _PIECE.match(raw, place)):
        count += _marks(_STRINGS.sub(b"", piece[0]))
        place = piece.end()
        if count > most:
            raise too_many_values(most)


def too_many_values(most: int = MOST_VALUES) -> Invalid:
    """The refusal; `most` values are taken."""
    message = f"the body: holds more than {most} values in lists and objects; send fewer, or as text"
    return Invalid(message, code="too_many_values", status=413)


def skip_space(raw: bytes, place: int) -> int:
    """Where the next token begins."""
    found = _SPACE.match(raw, place)
    return found.end() if found else place


def end_of_value(raw: bytes, start: int, most: int = MOST_VALUES) -> int:
    """Where the value that begins at `start` ends. Raises Malformed; Invalid above `most` lists and objects in it.

    Brackets are counted alone: what is between them is for the parser to judge.
    """
    if raw[start : start + 1] not in _OPENING:
        return _matched(_SCALAR if raw[start : start + 1] != b'"' else _STRINGS, raw, start)
    depth = opened = 0
    while found := _BRACKET.match(raw, start):  # never from within a string that has no end
        start, opening = found.end(), found[1] in _OPENING
        depth, opened = depth + (1 if opening else -1), opened + opening
        if depth == 0:
            return start
        if opened > most:
            raise too_many_values(most)
    raise Malformed


def _matched(pattern: re.Pattern[bytes], raw: bytes, start: int) -> int:
    found = pattern.match(raw, start)
    if found is None:
        raise Malformed
    return found.end()


def _marks(raw: bytes) -> int:
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")
