"""Reads requests from a file: plain lines, JSON lines or a JSON array (Penstock's or OpenAI's), or a table."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from app.cli.batch.text_file import TextFile
from app.cli.failure import CommandFailure, Exit
from app.submission.bodies import OPTIONS

Row = tuple[int, dict[str, str]]  # its number (the header is row 1) and its cells by column

_DELIMITERS = ",;\t|"
_LONGEST_CELL = 2**31 - 1  # characters; csv's own limit is 131,072
_NAME = re.compile(r"[\w .-]{1,40}")
_OPEN_QUOTE = "unexpected end of data"


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a header. `delimiter`: "" to detect it from the header."""

    text: TextFile
    delimiter: str = ""

    def columns(self) -> list[str]:
        """The column names. Raises CommandFailure."""
        return next((columns for columns, _ in self._read()), [])

    def rows(self) -> Iterator[Row]:
        """The rows, without blank ones. Raises CommandFailure."""
        for number, (columns, cells) in enumerate(self._read(), 1):
            if number == 1 or not any(cell.strip() for cell in cells):
                continue
            while len(cells) > len(columns) and not cells[-1].strip():
                cells.pop()
            if len(cells) != len(columns):
                words = f"has {len(cells)} columns, the header has {len(columns)}"
                raise CommandFailure(f"{self.text.label}, row {number}: {words}", _hint(columns))
            yield number, dict(zip(columns, cells, strict=True))

    def _read(self) -> Iterator[tuple[list[str], list[str]]]:
        """The header's columns with the cells of each row, starting with the header itself."""
        csv.field_size_limit(_LONGEST_CELL)
        number, columns = 1, list[str]()
        with self.text.open("") as file:
            delimiter = self.delimiter or _delimiter(self.text.head())
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            try:
                for cells in filter(None, reader):
                    columns = columns or self._columns(cells)
                    yield columns, cells
                    number += 1
            except csv.Error as error:
                raise self._broken(number, error) from None

    def _columns(self, cells: list[str]) -> list[str]:
        names = [cell.strip() for cell in cells]
        while names and not names[-1]:
            names.pop()
        doubled = next((name for name in names if names.count(name) > 1), None)
        if doubled is not None:
            raise CommandFailure(
                f"{self.text.label}: has two columns named {doubled!r}", "Rename one of them."
            )
        return names

    def _broken(self, number: int, error: csv.Error) -> CommandFailure:
        opened = str(error) == _OPEN_QUOTE
        words = "opens a quote that is never closed" if opened else f"has a stray quote ({error})"
        hint = 'Close it; a quote inside a cell is written twice: "".'
        return CommandFailure(f"{self.text.label}, row {number}: {words}", hint)


def _delimiter(head: str) -> str:
    """The delimiter found in the header; a comma if none is."""
    line = head.lstrip("\r\n").splitlines()[0] if head.strip() else ""
    return max(_DELIMITERS, key=lambda delimiter: (line.count(delimiter) > 0, delimiter == ","))


def _hint(columns: list[str]) -> str:
    only = "Only one column was found: " if len(columns) == 1 else ""
    return f"{only}if the cells are split wrongly, give --delimiter (such as ; or tab)."


def looks_like_table(head: str) -> str | None:
    """`csv` or `tsv` if the first line is a table header; `tabs` if the first lines contain tabs."""
    lines = [line for line in head.splitlines()[:3] if line.strip()]
    if not lines:
        return None
    for delimiter in "\t,;|":
        names = [cell.strip().strip('"') for cell in lines[0].split(delimiter)]
        known = {"prompt", "custom_id"} & {name.casefold() for name in names}
        if len(names) > 1 and known and all(map(_NAME.fullmatch, names)):
            return "tsv" if delimiter == "\t" else "csv"
    tabs = {line.count("\t") for line in lines}
    return "tabs" if len(lines) > 1 and len(tabs) == 1 and 0 not in tabs else None


Request = dict[str, Any]

KINDS = ("jsonl", "csv", "tsv", "txt")
TABLES = ("csv", "tsv")
_OURS = (
    frozenset({"model", "messages", "parameters", "penstock"}) | OPTIONS
)  # as /v1/chat/completions reads a body
_FIELD = re.compile(r"{([^{}]+)}")
_BY_NAME = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": "txt",
}
_BLANK = " \t\r\n\v\f"
_ARRAY = re.compile(r"\s*\[\s*[{\"\]]")
_WHICH = "Give the format: --kind jsonl, csv or tsv; or --kind txt to send each line as a prompt."


@dataclass(frozen=True, slots=True)
class PromptFile:
    """A file to submit. `template` (tables only) has {column} placeholders; other empty values are detected."""

    path: Path
    kind: str
    template: str = ""
    encoding: str = ""
    delimiter: str = ""
    label: str = field(default="", compare=False)

    @property
    def text(self) -> TextFile:
        """Its text."""
        return TextFile(self.path, self.label or self.path.name, self.encoding)

    @property
    def table(self) -> Table:
        """The file as a table. Raises CommandFailure."""
        return Table(self.text, self.delimiter or ("\t" if self.kind == "tsv" else ""))


def kind_of(text: TextFile, given: str | None) -> str:
    """The format of a file: given, else by name, else by content. Raises CommandFailure if these disagree."""
    head = text.head()
    if given is not None:
        return given
    suffixes = [suffix.lower() for suffix in text.path.suffixes if suffix.lower() != ".gz"]
    by_name = _BY_NAME.get(suffixes[-1]) if suffixes else None
    if by_name not in (None, "txt"):
        return str(by_name)
    by_content = _kind_by_content(head)
    if by_name == "txt" and by_content in ("array", *TABLES):
        words = "a JSON array" if by_content == "array" else f"a table ({by_content})"
        raise _wrong(f"{text.label}: looks like {words}, not prompts", _WHICH)
    if by_content == "tabs":
        if by_name == "txt":
            return "txt"
        raise _wrong(f"{text.label}: looks like a table (tabs), not prompts", _WHICH)
    return by_name or {"array": "jsonl"}.get(by_content, by_content)


def _kind_by_content(head: str) -> str:
    if _ARRAY.match(head):
        return "array"
    if head.lstrip().startswith("{"):
        return "jsonl"
    return looks_like_table(head) or "txt"


def requests_of(source: PromptFile) -> Iterator[Request]:
    """The requests of a file, in order, for /v1/batch. Raises CommandFailure for a bad line or an empty file."""
    if source.kind in TABLES:
        requests = _of_rows(source.table.rows(), source.template, source.text.label)
    else:
        requests = _of_json(source) if source.kind == "jsonl" else _of_lines(source)
    first = next(requests, None)
    if first is None:
        raise _wrong(f"{source.text.label}: contains no requests", "Nothing was submitted.")
    return chain((first,), requests)


def _of_lines(source: PromptFile) -> Iterator[Request]:
    return ({"prompt": line} for _, line in _lines(source.text))


def _of_json(source: PromptFile) -> Iterator[Request]:
    text = source.text
    if text.head().lstrip().startswith("["):
        yield from _of_array(text)
        return
    for number, line in _lines(text):
        yield _request(_parsed(line, f"{text.label}, line {number}"), f"{text.label}, line {number}")


def _of_array(text: TextFile) -> Iterator[Request]:
    with text.open("\n") as file:
        items = _parsed(file.read(), text.label)
    for number, item in enumerate(items, 1):
        yield _request(item, f"{text.label}, item {number}")


def _lines(text: TextFile) -> Iterator[tuple[int, str]]:
    """Non-blank lines with their numbers."""
    with text.open("\n") as file:
        for number, line in enumerate(file, 1):
            if line := line.strip(_BLANK):
                yield number, line


def _parsed(text: str, where: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _wrong(f"{where}: is not JSON ({error.msg})") from None


def _request(value: Any, where: str) -> Request:
    if isinstance(value, str):
        return {"prompt": value}
    if not isinstance(value, dict):
        raise _wrong(f"{where}: is neither a string nor an object")
    if not isinstance(value.get("body"), dict):
        return value
    url = value.get("url")
    if url is not None and not str(url).rstrip("/").endswith("/chat/completions"):
        raise _wrong(f"{where}: its url is {str(url)[:80]!r}", "Only /v1/chat/completions is served.")
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


def _of_rows(rows: Iterable[Row], template: str, label: str) -> Iterator[Request]:
    for number, row in rows:
        request: Request = {"prompt": fill(template or "{prompt}", row, f"{label}, row {number}")}
        request |= {name: row[name] for name in ("custom_id", "model") if row.get(name)}
        yield request


def fill(template: str, row: Mapping[str, str], where: str) -> str:
    """Fill the template with a row's values; {{ and }} are literal braces.

    Raises CommandFailure for an unknown column or an unpaired brace.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1].strip()
        if name not in row:
            there = ", ".join(row)
            raise _wrong(f"{where}: no column {name!r}; columns: {there}", _column_hint(name, row))
        return row[name]

    pieces = re.split(r"({{|}})", template)
    if any(set("{}") & set(_FIELD.sub("", piece)) for piece in pieces if piece not in ("{{", "}}")):
        raise _wrong(
            f"--template: unpaired brace in {template!r}",
            "Write {column} for a column and {{ or }} for a literal brace.",
        )
    return "".join({"{{": "{", "}}": "}"}.get(piece) or _FIELD.sub(value, piece) for piece in pieces)


def _column_hint(name: str, row: Mapping[str, str]) -> str:
    by_folded = {column.casefold(): column for column in row}
    like = get_close_matches(name.casefold(), by_folded, 1)
    return (
        f'Did you mean --template "{{{by_folded[like[0]]}}}"?'
        if like
        else 'Choose one with --template "{COLUMN}".'
    )


def _wrong(message: str, hint: str | None = None) -> CommandFailure:
    return CommandFailure(message, hint, Exit.FAILED)
