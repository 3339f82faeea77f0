"""Results of a batch as a file: JSON lines, CSV or Parquet, with the input's columns next to the answers."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import click
import orjson

from app.cli.failure import CommandFailure
from app.cli.profile import data_folder, write_private
from app.submission.domain.file_kind import BadFile, Faults
from app.submission.read_file import Reading, Source
from app.submission.read_requests import Item, RequestFile


@dataclass(frozen=True, slots=True)
class Job:
    """The source of a batch, how it was read, and where its results go. Empty values are unknown."""

    source: str = ""
    kind: str = ""
    out: str = ""
    encoding: str = ""
    delimiter: str = ""
    sheet: str = ""
    column: str = ""
    template: str = ""

    @property
    def reading(self) -> Reading:
        """How its source was read."""
        kind = self.kind if self.kind not in ("xlsx", "parquet") else ""
        return Reading(kind, self.encoding, self.delimiter, self.sheet, self.column, self.template)


def load_job(batch_id: str) -> Job:
    """Return what is remembered of a batch; an empty job if nothing is."""
    try:
        stored = json.loads(_place(batch_id).read_text())
        return Job(**{name: str(stored.get(name, "")) for name in Job.__slots__})
    except (OSError, ValueError, AttributeError):
        return Job()


def save_job(batch_id: str, job: Job, content: IO[bytes] | None = None) -> None:
    """Remember a batch's origin; `content` is kept for it, since standard input cannot be read again."""
    place = _place(batch_id)
    place.parent.mkdir(parents=True, exist_ok=True)
    if content is not None:
        kept = place.with_suffix(".input").absolute()
        write_private(kept, "")
        content.seek(0)
        with kept.open("wb") as copy:
            copy.writelines(iter(lambda: content.read(1024 * 1024), b""))
        job = replace(job, source=str(kept))
    write_private(place, json.dumps(asdict(job)) + "\n")


def _place(batch_id: str) -> Path:
    return data_folder(os.environ) / "jobs" / f"{Path(batch_id).name}.json"


class Output(NamedTuple):
    """A file for results. `excel`: a CSV begins with a byte order mark; `raw`: formulas in a CSV stay formulas."""

    path: Path
    excel: bool = False
    raw: bool = False


def out_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --out, --excel and --raw-cells to a command."""
    for option in (
        click.option(
            "--raw-cells", is_flag=True, help="CSV: leave cells that begin with = + - or @ as they are."
        ),
        click.option(
            "--excel", is_flag=True, help="CSV: begin with a byte order mark, so that Excel reads UTF-8."
        ),
        click.option(
            "--out",
            type=click.Path(path_type=Path, dir_okay=False),
            help="File for the results: .jsonl, .csv or .parquet.",
        ),
    ):
        command = option(command)
    return command


def output_of(out: Path | None, excel: bool, raw_cells: bool) -> Output | None:
    """The output that options name. Raises CommandFailure for a format or a place that cannot be written."""
    if out is None:
        return None
    if not out.parent.is_dir():
        raise CommandFailure(f"{out}: there is no folder {out.parent}", "Create it, or choose another --out.")
    suffix = out.suffix.lower()
    if suffix in (".xlsx", ".xls", ".ods"):
        raise CommandFailure(
            f"{out}: workbooks are not written", "Write a .csv with --excel; Excel opens it."
        )
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise CommandFailure(
            f"{out}: writing Parquet needs pyarrow",
            f'Install it: {sys.executable} -m pip install "penstock[files]"',
        )
    return Output(out, excel, raw_cells)


def check_apart(out: Output | None, source: str) -> None:
    """Raise CommandFailure where the results would replace what was submitted, or stand among it."""
    if out is None or not source:
        return
    to, of = out.path.resolve(), Path(source).resolve()
    if to == of or (of.is_dir() and to.is_relative_to(of)):
        words = "is the file that is submitted" if to == of else f"is inside the submitted folder {source}"
        raise CommandFailure(f"{out.path} {words}", "Choose another place for --out.")


ADDED = ("answer", "status", "error", "task_id", "row")


def write_results(lines: Iterable[bytes], out: Output, job: Job) -> int:
    """Write the results, replacing the file; returns their number. Raises CommandFailure."""
    check_apart(out, job.source)
    partial = out.path.with_name(f"{out.path.name}.part")
    try:
        count = _write(_merged(lines, job), partial, out, job)
    except BadFile as error:
        hint = (
            "Restore the file that was submitted, or leave out --out, which prints the results as JSON lines."
        )
        raise CommandFailure(f"{error}: it has changed since", hint) from None
    partial.replace(out.path)
    return count


def _write(merged: _Merged, partial: Path, out: Output, job: Job) -> int:
    if job.source and not Path(job.source).exists():
        hint = "Restore it, or leave out --out, which prints the results as JSON lines."
        raise CommandFailure(f"{job.source} is gone, whose columns are to be kept", hint)
    suffix = out.path.suffix.lower()
    if suffix == ".parquet":
        return _write_parquet(merged, partial, job)
    encoding = "utf-8-sig" if suffix == ".csv" and out.excel else "utf-8"
    with partial.open("w", encoding=encoding, newline="") as file:
        return _write_csv(merged, file, job, out.raw) if suffix == ".csv" else _write_jsonl(merged, file)


def write_lines(lines: Iterable[bytes], file: IO[str]) -> int:
    """Write results as JSON lines; returns their number."""
    count = 0
    for line in lines:
        file.write(line.decode() + "\n")
        count += 1
    return count


def answer_of(line: Mapping[str, Any]) -> str:
    """The text of the first choice; "" if there is none."""
    try:
        content = line["result"]["choices"][0]["message"]["content"] or ""
    except (KeyError, IndexError, TypeError):
        return ""
    return content if isinstance(content, str) else orjson.dumps(content).decode()


# -- the input next to the answers


_Merged = Iterator[tuple[Item | None, bytes]]


def _merged(lines: Iterable[bytes], job: Job) -> _Merged:
    """Each result with its request; both are in the order of the requests. None if the source is not known."""
    if not job.source:
        yield from ((None, line) for line in lines)
        return
    with closing(_items(Path(job.source), job.reading)) as items:
        place = -1
        for line in lines:
            index = orjson.loads(line)["index"]
            item = next(islice(items, index - place - 1, None), None)
            place = index
            if item is None:
                hint = "Restore it, or leave out --out, which prints the results as JSON lines."
                raise CommandFailure("the file now has fewer rows than were submitted", hint)
            yield item, line


def files_of(path: Path) -> list[Path]:
    """The file, or those of a folder in order of their names; hidden ones are left out."""
    if not path.is_dir():
        return [path]
    found = (place for place in path.rglob("*") if place.is_file())
    named = [place for place in found if not _hidden(place.relative_to(path))]
    return sorted(named, key=lambda place: [_natural(part) for part in place.relative_to(path).parts])


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "~$")) or part in ("Thumbs.db", "desktop.ini") for part in path.parts)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """So that part-10 comes after part-9."""
    pieces = re.split(r"(\d{1,18})", name)
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces]


def _opened(path: Path, how: Reading) -> Iterator[RequestFile]:
    for place in files_of(path):
        label = place.name if place == path else str(place.relative_to(path))
        with place.open("rb") as file:
            yield RequestFile(Source(file, label, place.name), how, Faults())


def _items(path: Path, how: Reading) -> Generator[Item, None, None]:
    for file in _opened(path, how):
        yield from file


def _columns(job: Job) -> list[str]:
    """The columns that are kept."""
    if not job.source:
        return ["custom_id"]
    path = Path(job.source)
    columns = dict.fromkeys(["file"] if path.is_dir() else [])
    for file in _opened(path, job.reading):
        columns |= dict.fromkeys(file.columns or ["custom_id", "prompt"])
    return [*columns, *(["penstock_prompt" if "prompt" in columns else "prompt"] if job.template else [])]


def _row(item: Item | None, line: Mapping[str, Any], kept: list[str]) -> list[str]:
    named = str(line.get("custom_id") or line["index"])
    if item is None:
        return [named]
    asked = prompt_of(item)
    cells = item.cells or {"custom_id": named, "prompt": asked}
    more = {
        "file": item.label,
        "custom_id": named,
        "penstock_prompt": asked,
        **({} if "prompt" in cells else {"prompt": asked}),
    }
    return [cells.get(name, more.get(name, "")) for name in kept]


def prompt_of(item: Item) -> str:
    """The text that was asked: the prompt, or what the last message says."""
    if isinstance(item.request.get("prompt"), str):
        return str(item.request["prompt"])
    messages = item.request.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    content = last.get("content") if isinstance(last, dict) else None
    return content if isinstance(content, str) else orjson.dumps(content).decode()


def _added(item: Item | None, line: Mapping[str, Any]) -> list[Any]:
    error = line.get("error") or {}
    number = item.number if item else line["index"] + 1
    return [answer_of(line), line["status"], error.get("message") or "", line["task_id"], number]


def _names(kept: list[str]) -> list[str]:
    names = list(kept)
    for name in ADDED:
        while name in names:
            name = f"penstock_{name}"
        names.append(name)
    return names


# -- formats


def _write_jsonl(merged: _Merged, file: IO[str]) -> int:
    count = 0
    for item, line in merged:
        text = line.strip()
        if item is not None and text.endswith(b"}"):  # the numbers of an answer stay as they are written
            more = {"row": item.number, "input": item.cells or {"prompt": prompt_of(item)}}
            text = text[:-1] + b"," + orjson.dumps(more)[1:]
        file.write(text.decode() + "\n")
        count += 1
    return count


def _write_csv(merged: _Merged, file: IO[str], job: Job, raw: bool) -> int:
    kept = _columns(job)
    writer = csv.writer(file)
    writer.writerow(_names(kept) if raw else map(defused, _names(kept)))
    count = 0
    for item, text in merged:
        line = orjson.loads(text)
        cells = [*_row(item, line, kept), *_added(item, line)]
        writer.writerow(
            cells if raw else [defused(cell) if isinstance(cell, str) else cell for cell in cells]
        )
        count += 1
    return count


# A spreadsheet runs what begins so: https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_NUMBER = re.compile(r"[+-]?[\d.,]+(?:[eE][+-]?\d+)?%?")


def defused(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula; numbers stay as they are."""
    return f"'{cell}" if cell.startswith(_FORMULA) and not _NUMBER.fullmatch(cell) else cell


_ROWS_AT_ONCE = 2_000


def _write_parquet(merged: _Merged, place: Path, job: Job) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    kept = _columns(job)
    names = _names(kept)
    schema = pa.schema([(name, pa.int64() if name == names[-1] else pa.string()) for name in names])
    count = 0
    with parquet.ParquetWriter(place, schema) as writer:
        while rows := list(islice(merged, _ROWS_AT_ONCE)):
            lines = [(item, orjson.loads(text)) for item, text in rows]
            cells = [[*_row(item, line, kept), *_added(item, line)] for item, line in lines]
            writer.write_table(pa.table(list(map(list, zip(*cells, strict=True))), schema=schema))
            count += len(rows)
    return count


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Split a stream into lines."""
    rest = b""
    for chunk in chain(chunks, (b"\n",)):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from filter(None, lines)
