"""Requests out of a file: plain lines, JSON lines (ours and OpenAI's), CSV columns through a template."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from app.cli.failure import Exit, Failure

Request = dict[str, Any]

KINDS = ("jsonl", "csv", "txt")
_OURS = (
    "model",
    "messages",
    "callback_url",
    "expires_in",
    "metadata",
    "priority",
    "retry",
    "run_at",
    "cache",
    "store",
)
_FIELD = re.compile(r"{([^{}]+)}")


@dataclass(frozen=True, slots=True)
class Source:
    """A file to submit. `template` holds {column} names, for CSV alone."""

    path: Path
    kind: str
    template: str = ""


def kind_of(path: Path, given: str | None) -> str:
    """How to read a file: as told, by its name, by its first character."""
    if given is not None:
        return given
    by_name = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".txt": "txt"}.get(path.suffix.lower())
    if by_name is not None:
        return by_name
    with path.open("rb") as file:
        return "jsonl" if file.read(4096).lstrip().startswith(b"{") else "txt"


def requests_of(source: Source) -> Iterator[Request]:
    """The requests of a file, in order, as /v1/batch takes them. Raises Failure that names the line."""
    if source.kind == "csv":
        return _of_rows(rows_of(source.path), source.template)
    return _of_lines(source)


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV file by its columns. Raises Failure."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for number, row in enumerate(reader, 2):
            if None in row or None in row.values():
                raise _wrong(f"{path.name}, row {number}: has not as many columns as the first row")
            yield row


def columns_of(path: Path) -> list[str]:
    """The names of a CSV file's columns."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return next(csv.reader(file), [])


def _of_lines(source: Source) -> Iterator[Request]:
    read = _json_request if source.kind == "jsonl" else _plain_request
    with source.path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if text := line.strip().removeprefix(b"\xef\xbb\xbf"):
                yield read(text, f"{source.path.name}, line {number}")


def _plain_request(line: bytes, where: str) -> Request:
    try:
        return {"prompt": line.decode()}
    except UnicodeDecodeError:
        raise _wrong(f"{where}: is not UTF-8") from None


def _json_request(line: bytes, where: str) -> Request:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise _wrong(f"{where}: is not JSON ({error.msg})") from None
    if isinstance(value, str):
        return {"prompt": value}
    if not isinstance(value, dict):
        raise _wrong(f"{where}: is neither a text nor an object")
    return from_openai(value) if isinstance(value.get("body"), dict) else value


def from_openai(line: Mapping[str, Any]) -> Request:
    """A line of OpenAI's Batch API as one of ours: what is not ours in its body goes to the upstream."""
    body = line["body"]
    request = {name: body[name] for name in _OURS if name in body}
    parameters = {name: value for name, value in body.items() if name not in _OURS}
    if parameters:
        request["parameters"] = parameters
    if line.get("custom_id") is not None:
        request["custom_id"] = line["custom_id"]
    return request


def _of_rows(rows: Iterable[Mapping[str, str]], template: str) -> Iterator[Request]:
    for number, row in enumerate(rows, 2):
        request: Request = {"prompt": fill(template or "{prompt}", row, f"row {number}")}
        request |= {name: row[name] for name in ("custom_id", "model") if row.get(name)}
        yield request


def fill(template: str, row: Mapping[str, str], where: str) -> str:
    """The template with a row's values; {{ and }} stand for braces.

    Raises Failure for a column that is not there, and for a lone brace.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1].strip()
        if name not in row:
            there = ", ".join(row)
            raise _wrong(
                f"{where}: there is no column {name!r}; there are: {there}", 'Say which by --template "...".'
            )
        return row[name]

    pieces = re.split(r"({{|}})", template)
    if any(set("{}") & set(_FIELD.sub("", piece)) for piece in pieces if piece not in ("{{", "}}")):
        raise _wrong(
            f"--template: a brace without its other half: {template!r}",
            "Write {column} for a column, and {{ or }} for a brace.",
        )
    return "".join({"{{": "{", "}}": "}"}.get(piece) or _FIELD.sub(value, piece) for piece in pieces)


def _wrong(message: str, mend: str | None = None) -> Failure:
    return Failure(message, mend, Exit.FAILED)
