"""Reads requests from files as people have them: plain lines, JSON (ours, OpenAI's, texts) in any spacing, tables."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson

from app.platform.domain.errors import Invalid, Rejected
from app.platform.domain.json_text import Malformed, end_of_value
from app.submission.bodies import OPTIONS
from app.submission.domain.file_kind import (
    BadFile,
    Fault,
    Faults,
    check_columns,
    fields_of,
    fill,
    header,
    not_read,
    other_shape,
)
from app.submission.read_file import OpenedFile, Reading, Row, Source, Text, open_file, too_long
from app.submission.validation import parse_json

Request = dict[str, Any]

MOST_BLANK = 1_000_000  # lines or rows
_OURS = (
    frozenset({"model", "messages", "parameters", "penstock"}) | OPTIONS
)  # as /v1/chat/completions reads a body
_OPENAI = frozenset({"body", "url", "method"})


@dataclass(frozen=True, slots=True)
class Item:
    """One request of a file and where it stands: its row of a table as `cells`, or its JSON `value`."""

    label: str
    where: str
    number: int
    request: Request
    cells: Mapping[str, str] = field(default_factory=dict)
    value: Any = None

    @property
    def is_openai(self) -> bool:
        """Whether it is a line of OpenAI's Batch API."""
        return isinstance(self.value, dict) and not _OPENAI.isdisjoint(self.value)

    def fault(self, error: Rejected) -> Fault:
        """What is wrong with it."""
        code = error.code or "invalid_request"
        hint = ""
        if "unknown field" in error.message and isinstance(self.value, dict) and "prompt" in self.value:
            hint = "With --column prompt only that field is asked; the others stay next to the answers in JSON lines."
        return Fault(self.label, error.message, hint, self.where, self.number, code, error.param)


class RequestFile:
    """The requests of one file, in order. Faults are collected; only what leaves nothing to read is raised.

    `kind` and `columns` (of a table) are known at once, `note` (how it was read) from the first request on.
    """

    def __init__(self, source: Source, how: Reading, faults: Faults) -> None:
        """Raises BadFile for what cannot be read at all."""
        self._opened: OpenedFile = open_file(source, how)
        self._how = how
        self._label = source.label
        self._faults = faults
        self.kind = self._opened.kind
        self.columns: list[str] = []
        self._rows = self._opened.rows
        if self._rows is not None:
            self.columns = self._header(self._rows)

    @property
    def note(self) -> str:
        """How its text was read, if that had to be guessed; "" otherwise."""
        return self._opened.text.note if self._opened.text else ""

    def __iter__(self) -> Iterator[Item]:
        """Raises BadFile with all faults as soon as there are too many to go on, or nothing more can be read."""
        nothing = True
        try:
            for item in self._items():
                nothing = False
                yield item
            if nothing and not self._faults.found:
                words = "contains a header and no rows" if self.columns else "contains no requests"
                raise BadFile([Fault(self._label, words, "Nothing was submitted.", code="empty_file")])
        except BadFile as error:
            known = [fault for fault in self._faults.found if fault not in error.faults]
            raise BadFile([*known, *error.faults]) from None

    def _items(self) -> Iterator[Item]:
        text = self._opened.text
        if self._rows is not None:
            return self._of_rows(self._rows)
        if text is None:
            raise not_read(self._label, self.kind)
        return self._of_json(text) if self.kind == "jsonl" else self._of_lines(text)

    # -- plain lines

    def _of_lines(self, text: Text) -> Iterator[Item]:
        for number, line in _lines(text, self._label, self._how.longest):
            where = f"line {number}"
            if not _readable(line):
                self._faults.add(text.unreadable(where, number))
            elif "\x00" in line:
                self._faults.add(_nul(self._label, where, number))
            else:
                yield Item(self._label, where, number, {"prompt": line})

    # -- JSON

    def _of_json(self, text: Text) -> Iterator[Item]:
        for value in JsonValues(text.blocks(), self._how.longest):
            where = f"item {value.number}" if value.in_array else f"line {value.number}"
            try:
                if value.too_long:
                    self._faults.add(too_long(self._label, where, value.number, self._how.longest))
                else:
                    yield from self._of_value(parse_json(value.raw), where, value.number)
            except Invalid as error:
                self._faults.add(self._bad_json(text, value.raw, where, value.number, error))

    def _of_value(self, value: Any, where: str, number: int) -> Iterator[Item]:
        how = self._how
        if isinstance(value, dict) and (how.column or how.template):
            names, by = ([how.column], "--column") if how.column else (fields_of(how.template), "--template")
            check_columns(names, list(value), f"{self._label}, {where}", by=by)
            yield from self._of_row(where, number, value)
            return
        words, hint = other_shape(value)
        if words:
            self._faults.add(Fault(self._label, words, hint, where, number))
        else:
            yield Item(self._label, where, number, _request(value), value=value)

    def _bad_json(self, text: Text, raw: bytes, where: str, number: int, error: Invalid) -> Fault:
        if not raw:
            hint = "The file may be cut off; add the closing bracket if it is not."
            return Fault(self._label, "is not JSON: the array ends before it is closed", hint, where, number)
        if not _is_utf8(raw):
            return text.unreadable(where, number)
        code, message = error.code or "invalid_value", error.message
        if code != "invalid_json":
            hint = (
                "A request is a text, an object with a prompt or messages, or a line of OpenAI's Batch API."
            )
            return Fault(self._label, message, hint, where, number, code, error.param)
        if raw.startswith((b"//", b"/*", b"#")):
            fault = Fault(
                self._label, "is a comment, which JSON does not allow", "Remove it.", where, number, code
            )
            raise BadFile([fault])
        hint = "Each request is one JSON value; plain text is read with --kind txt."
        if _QUOTED_OTHERWISE.match(raw):
            hint = (
                "JSON has names and texts in double quotes; write it with a JSON library, such as json.dumps."
            )
        message = message.replace("not valid JSON", "is not JSON").replace(" at line 1 column", " at column")
        return Fault(self._label, message, hint, where, number, code)

    # -- tables

    def _header(self, rows: Iterator[Row]) -> list[str]:
        how, first = self._how, next(rows, None)
        if first is None:
            return []
        columns = header(map(shown, first.cells), self._label, f"row {first.number}")
        wanted, by = ["prompt"], ""
        if how.template:
            wanted, by = fields_of(how.template), "--template"
        elif how.column:
            wanted, by = [how.column], "--column"
        elif "messages" in columns:
            return columns
        try:
            check_columns(wanted, columns, self._label, by=by)
        except BadFile:
            self._check_later(rows, wanted)
            raise
        return columns

    def _check_later(self, rows: Iterator[Row], wanted: list[str]) -> None:
        """Raise BadFile if a row further down is the header: titles may stand above it."""
        for number, cells in islice(rows, 20):
            if set(wanted) <= {shown(cell).strip() for cell in cells}:
                words = f"its header is in row {number}, not in the first"
                raise BadFile(
                    [Fault(self._label, words, "Remove the rows above it.", f"row {number}", number)]
                )

    def _of_rows(self, rows: Iterator[Row]) -> Iterator[Item]:
        columns, blank = self.columns, 0
        for number, cells in rows:
            while cells and (len(cells) > len(columns) or not columns) and _is_blank(cells[-1]):
                cells.pop()
            if all(map(_is_blank, cells)):
                blank = _count_blank(blank, self._label)
            elif fault := self._misfit(number, cells):
                self._faults.add(fault)
            else:
                cells += [None] * (len(columns) - len(cells))
                yield from self._of_row(f"row {number}", number, dict(zip(columns, cells, strict=True)))

    def _misfit(self, number: int, cells: list[Any]) -> Fault | None:
        """What is wrong with a row as a row."""
        where, width = f"row {number}", len(self.columns)
        short = len(cells) < width and self.kind in ("csv", "tsv")
        if len(cells) > width or short:
            words = (
                f"has {len(cells):,} {'column' if len(cells) == 1 else 'columns'}, the header has {width:,}"
            )
            only = "Only one column was found: " if width == 1 else ""
            hint = f"{only}if the cells are split wrongly, give --delimiter (such as ; or tab)."
            return Fault(self._label, words, hint, where, number)
        texts = [cell for cell in cells if isinstance(cell, str)]
        if not all(map(_readable, texts)) and self._opened.text:
            return self._opened.text.unreadable(where, number)
        return _nul(self._label, where, number) if any("\x00" in cell for cell in texts) else None

    def _of_row(self, where: str, number: int, row: dict[str, Any]) -> Iterator[Item]:
        cells = {name: shown(value) for name, value in row.items()}
        how = self._how
        request: Request = {}
        if how.template:
            request["prompt"] = fill(how.template, cells)
        elif how.column or "prompt" in row:
            name = how.column or "prompt"
            request = _asked(row[name], cells[name])
        if not request.get("prompt") and not how.template and not how.column and cells.get("messages"):
            request = {"messages": _structure(row["messages"])}
        request |= {name: cells[name] for name in ("custom_id", "model") if cells.get(name)}
        if request.get("prompt") in _CELL_ERRORS and self.kind != "jsonl":
            words = f"its prompt is an error of the spreadsheet: {request['prompt']}"
            self._faults.add(Fault(self._label, words, "Correct its formula.", where, number))
            return
        if not str(request.get("prompt", "x")).strip():
            hint = "Write its prompt, or leave the row out."
            if self.kind == "xlsx":
                hint += " If it is a formula, save the workbook in Excel or LibreOffice, which calculates it."
            self._faults.add(Fault(self._label, "has no prompt", hint, where, number, "missing_field"))
            return
        yield Item(self._label, where, number, request, cells)


_QUOTED_OTHERWISE = re.compile(b"[{\\[][\\s{\\[]*(?:['\\w]|\xe2\x80[\x98\x9c])")


_CELL_ERRORS = ("#N/A", "#REF!", "#NAME?", "#VALUE!", "#DIV/0!", "#NULL!", "#NUM!")


def _asked(value: Any, text: str) -> Request:
    """The request of a cell or a field: messages if it is a list of them, else its text."""
    if isinstance(value, list) and value and all(isinstance(one, dict) and "role" in one for one in value):
        return {"messages": value}
    return {"prompt": value if isinstance(value, list | dict) else text}


def _lines(text: Text, label: str, longest: int) -> Iterator[tuple[int, str]]:
    """Non-blank lines with their numbers."""
    number = blank = 0
    with text.open(None) as file:
        while line := file.readline(longest + 1):
            number += 1
            if len(line) > longest:
                raise BadFile([too_long(label, f"line {number}", number, longest)])
            if line := line.strip(" \t\r\n\v\f"):
                yield number, line
            else:
                blank = _count_blank(blank, label)


def _count_blank(blank: int, label: str) -> int:
    if blank >= MOST_BLANK:
        raise BadFile([Fault(label, f"has more than {MOST_BLANK:,} blank lines", "Remove them.")])
    return blank + 1


def _nul(label: str, where: str, number: int) -> Fault:
    return Fault(
        label, "holds a NUL character", "Remove it; such files are often UTF-16 or cut off.", where, number
    )


def _readable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_blank(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def shown(cell: Any) -> str:
    """A cell as text, as a spreadsheet shows it: 17.0 is 17, a date is ISO 8601, lists and objects are JSON."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, bool):
        return str(cell).upper()
    if isinstance(cell, float) and cell != cell:
        return ""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return str(int(cell))
    if isinstance(cell, dt.datetime) and cell.time() == dt.time() and cell.tzinfo is None:
        return cell.date().isoformat()
    if isinstance(cell, dt.datetime | dt.date | dt.time):
        return cell.isoformat()
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "replace")
    if isinstance(cell, list | dict | tuple):
        return orjson.dumps(cell, default=shown).decode()
    return str(cell)


def _structure(value: Any) -> Any:
    """Messages of a cell: a list, or its JSON text; what is neither is refused with its row."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value.encode())
    except Invalid:
        return value


# -- JSON in any spacing -------------------------------------------------------------------------------------------

_BREAK = re.compile(rb"\n(?=\{[ \t]*\")")  # one object a line: the next one begins
_BETWEEN = b" \t\r\n,\v\f\x1e"  # RFC 7464 begins each text with a record separator
_SHORT = 64 * 1024  # bytes of a line that is tried as a whole


@dataclass(frozen=True, slots=True)
class JsonValue:
    """A value in its own words, or what stands in its place; `number` is its line, in an array its place from 1."""

    raw: bytes
    number: int
    in_array: bool
    too_long: bool = False


class JsonValues:
    """Splits a text into its values: one a line, over many lines, several in a line, or the elements of arrays.

    A value that is broken ends at the next line that begins an object, so that the ones after it are still found.
    """

    def __init__(self, blocks: Iterator[bytes], longest: int) -> None:
        self._blocks = blocks
        self._longest = longest
        self._held = b""
        self._place = 0
        self._line = 1
        self._ended = False
        self._array = 0  # elements so far, from 1; 0 outside of an array
        self._broken = False  # whether the last value has no end

    def __iter__(self) -> Iterator[JsonValue]:
        while self._skip():
            first = self._held[self._place : self._place + 1]
            if first == b"[" and not self._array:
                self._array, self._place = 1, self._place + 1
            elif first == b"]" and self._array:
                self._array, self._place = 0, self._place + 1
            else:
                yield self._value()
        if self._array and not self._broken:
            yield JsonValue(b"", self._array, in_array=True)

    def _value(self) -> JsonValue:
        number, self._broken = self._array or self._line, False
        end = self._end()
        too_long = end - self._place > self._longest
        value = JsonValue(self._held[self._place : end].strip(), number, bool(self._array), too_long)
        self._line += self._held.count(b"\n", self._place, end)
        self._place = end
        if self._array:
            self._array += 1
        if too_long:
            self._leave_line()
        return value

    def _leave_line(self) -> None:
        """Leave out the rest of a line whose value is too long."""
        self._broken = bool(self._array)
        while (end := self._held.find(b"\n", self._place)) < 0 and not self._ended:
            self._place = len(self._held)
            self._read(0)
        self._place = end if end >= 0 else len(self._held)

    def _end(self) -> int:
        """Where the value ends: at the end of its line, if that is JSON, else where its brackets close."""
        while True:
            most = self._place + _SHORT
            line_end = self._held.find(b"\n", self._place, most)
            if line_end < 0 and self._ended and len(self._held) <= most:
                line_end = len(self._held)
            if line_end >= 0 and (end := self._whole_line(line_end)):
                return end
            if end := self._closing():
                return end
            if self._ended or len(self._held) - self._place > self._longest:
                return self._broken_end(len(self._held))
            self._read(len(self._held) - self._place)

    def _whole_line(self, line_end: int) -> int:
        line = self._held[self._place : line_end].rstrip(b" \t\r,")
        try:
            orjson.loads(line)
        except orjson.JSONDecodeError:
            return 0
        return self._place + len(line)

    def _closing(self) -> int:
        """Where the brackets close; 0: not in what has been read."""
        start = self._held[self._place : self._place + 1]
        if start not in (b"{", b"[", b'"') and not self._array:
            line_end = self._held.find(b"\n", self._place)
            return line_end if line_end >= 0 else len(self._held) if self._ended else 0
        try:
            end = end_of_value(self._held, self._place)
        except Malformed:
            end = self._place + 1 if start == b"}" else 0
        except Invalid:
            return self._broken_end(len(self._held))
        if end == len(self._held) and not self._ended:
            return 0  # a number may go on
        broken = _BREAK.search(self._held, self._place + 1, end or len(self._held))
        return broken.start() if broken else end

    def _broken_end(self, end: int) -> int:
        """The end of what is no value: the next line that begins an object, or else of its own line."""
        broken = _BREAK.search(self._held, self._place + 1) or re.compile(rb"\n").search(
            self._held, self._place + 1
        )
        return broken.start() if broken else end

    def _skip(self) -> bool:
        """Go to the next value; returns whether there is one."""
        while True:
            rest = self._held[self._place : self._place + 4096]
            blank = len(rest) - len(rest.lstrip(_BETWEEN))
            self._line += rest.count(b"\n", 0, blank)
            self._place += blank
            if blank < len(rest):
                return True
            if self._place >= len(self._held) and (self._ended or not self._read(0)):
                return False

    def _read(self, least: int) -> bool:
        """Read on, at least as much as there is of this value, so that long ones are not looked through too often."""
        parts = [self._held[self._place :]]
        self._place, size = 0, 0
        while size <= least and not self._ended:
            block = next(self._blocks, b"")
            self._ended = not block
            parts.append(block)
            size += len(block)
        self._held = b"".join(parts)
        return size > 0


def _request(value: Any) -> Request:
    if isinstance(value, str):
        return {"prompt": value}
    if not isinstance(value, dict):
        raise Invalid("is neither a text nor an object", code="invalid_type")
    if not isinstance(value.get("body"), dict):
        return value
    url = value.get("url")
    if url is not None and not str(url).rstrip("/").endswith("/chat/completions"):
        raise Invalid(f"its url is {str(url)[:80]!r}; only /v1/chat/completions is served", param="url")
    return from_openai(value)


def from_openai(line: Mapping[str, Any]) -> Request:
    """Convert a line of OpenAI's Batch API. Body fields that are not Penstock's go to the upstream."""
    body = line["body"]
    request = {name: body[name] for name in _OURS if name in body}
    beside = {name: value for name, value in body.items() if name not in _OURS}
    if beside:
        request["parameters"] = {**(body.get("parameters") or {}), **beside}
    if line.get("custom_id") is not None:
        request["custom_id"] = line["custom_id"]
    return request
