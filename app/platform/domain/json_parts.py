"""JSON text taken apart before any of it becomes values: a few bytes of text can be hundreds in memory."""

from __future__ import annotations

import re

from app.platform.domain.errors import Invalid

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
    for found in _BRACKET.finditer(raw, start):
        opening = found[1] in _OPENING
        depth, opened = depth + (1 if opening else -1), opened + opening
        if depth == 0:
            return found.end()
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
