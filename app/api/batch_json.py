"""The JSON body of a batch, read request by request: reading stops at the first error, before the rest is parsed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.platform.domain.errors import Invalid
from app.platform.domain.json_text import Malformed, end_of_value, skip_space
from app.submission.batch_intake import MOST_TASKS
from app.submission.bodies import MOST_NAMES, BatchBody, BatchLine
from app.submission.validation import parse, parse_json

_BLANK = bytes(byte if byte in b"\r\n" else ord(" ") for byte in range(256))
_CONTINUATION = bytes(range(0x80, 0xC0))  # bytes of UTF-8 that begin no character, and so no column


def read_batch(raw: bytes) -> BatchBody:
    """Check a body. Raises Invalid that names the first wrong field."""
    start = skip_space(raw, 0)
    if raw[start : start + 1] == b"[":
        return parse(BatchBody, [])
    checked: list[slice] = []
    try:
        values = dict(_members(raw, start, checked))
    except Malformed:
        values = parse_json(_blanked(raw, checked), most_values=len(raw))  # raises, with the line and column
    return parse(BatchBody, values)


def _blanked(raw: bytes, checked: list[slice]) -> bytes:
    """The body with spaces for the requests already read: they are not parsed again, and errors keep their place."""
    pieces, end = [], 0
    for part in checked:
        pieces += [raw[end : part.start], raw[part].translate(_BLANK, _CONTINUATION)]
        end = part.stop
    return b"".join([*pieces, raw[end:]])


def _members(raw: bytes, start: int, checked: list[slice]) -> Iterator[tuple[str, Any]]:
    """The body's fields, `requests` as checked lines. Raises Malformed, Invalid.

    `checked` collects where requests stand that have been read, all but the last of each list.
    """
    place = _after(raw, start, b"{")
    for count in range(MOST_NAMES + 1):
        if count == 0 and raw[place : place + 1] == b"}":
            place += 1
            break
        end = end_of_value(raw, place)
        name, place = _value(raw[place:end]), _after(raw, end, b":")
        if not isinstance(name, str):
            raise Malformed
        if name == "requests" and raw[place : place + 1] == b"[":
            lines: list[BatchLine] = []
            place = _read_requests(raw, place, lines, checked)
            yield name, lines
        else:
            end = end_of_value(raw, place)
            yield name, _value(raw[place:end])
            place = skip_space(raw, end)
        if raw[place : place + 1] == b"}":
            place += 1
            break
        place = _after(raw, place, b",")
    else:
        raise Invalid(f"the body: must hold at most {MOST_NAMES} fields", code="invalid_value")
    if skip_space(raw, place) != len(raw):
        raise Malformed


def _read_requests(raw: bytes, start: int, lines: list[BatchLine], checked: list[slice]) -> int:
    """Read the list that begins at `start` into `lines`. Returns where the next token begins."""
    first = place = _after(raw, start, b"[")
    checked.append(slice(first, first))
    if raw[place : place + 1] == b"]":
        return skip_space(raw, place + 1)
    while True:
        if len(lines) >= MOST_TASKS:
            raise Invalid(f"requests: more than {MOST_TASKS} in one batch", param="requests", status=413)
        checked[-1] = slice(first, place)
        end = end_of_value(raw, place)
        lines.append(parse(BatchLine, _value(raw[place:end]), within=f"requests[{len(lines)}]"))
        place = skip_space(raw, end)
        if raw[place : place + 1] == b"]":
            return skip_space(raw, place + 1)
        place = _after(raw, place, b",")


def _value(raw: bytes) -> Any:
    try:
        return parse_json(raw)
    except Invalid as error:
        if error.code == "invalid_json":
            raise Malformed from None
        raise


def _after(raw: bytes, place: int, mark: bytes) -> int:
    place = skip_space(raw, place)
    if raw[place : place + 1] != mark:
        raise Malformed
    return skip_space(raw, place + 1)
