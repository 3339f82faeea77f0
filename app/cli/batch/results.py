"""Results of a batch into a file, in the order of its requests: JSON lines, or CSV that keeps its columns."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import IO, Any

import orjson

from app.cli.batch.job import Job
from app.cli.batch.prompts import TABLES, PromptFile
from app.cli.failure import CommandFailure

ADDED = ("answer", "status", "error", "task_id")


def write_results(lines: Iterable[bytes], out: Path, job: Job) -> int:
    """Write them in place of what `out` holds; gives back how many there were. Raises Failure."""
    partial = out.with_name(f"{out.name}.part")
    with partial.open("w", encoding="utf-8", newline="") as file:
        if out.suffix.lower() == ".csv":
            count = _write_csv(map(orjson.loads, lines), file, job)
        else:
            count = write_lines(lines, file)
    partial.replace(out)
    return count


def write_lines(lines: Iterable[bytes], file: IO[str]) -> int:
    """As JSON lines."""
    count = 0
    for line in lines:
        file.write(line.decode() + "\n")
        count += 1
    return count


def answer_of(line: Mapping[str, Any]) -> str:
    """The text of the first choice; "" where there is none."""
    try:
        return str(line["result"]["choices"][0]["message"]["content"] or "")
    except (KeyError, IndexError, TypeError):
        return ""


def _write_csv(lines: Iterable[Mapping[str, Any]], file: IO[str], job: Job) -> int:
    source = _source_of(job)
    if source is not None and not source.path.is_file():
        mend = "Put it back, or take the results as --out results.jsonl."
        raise CommandFailure(f"{source.path} is gone, whose columns are to be kept", mend)
    kept = source.table.columns() if source is not None else ["custom_id"]
    added = [name if name not in kept else f"penstock_{name}" for name in ADDED]
    writer = csv.writer(file)
    writer.writerow([*kept, *added])
    rows = _rows_by_index(source)
    count = 0
    for line in lines:
        own = _own_columns(rows, line, kept)
        writer.writerow([*own, *_added_columns(line)])
        count += 1
    return count


Rows = Iterator[tuple[int, Mapping[str, str]]] | None


def _source_of(job: Job) -> PromptFile | None:
    """The table whose columns are kept; None where the requests came from none, or from standard input."""
    if job.kind not in TABLES or not job.source:
        return None
    return PromptFile(Path(job.source), job.kind, encoding=job.encoding, delimiter=job.delimiter)


def _rows_by_index(source: PromptFile | None) -> Rows:
    return None if source is None else enumerate(row for _, row in source.table.rows())


def _own_columns(rows: Rows, line: Mapping[str, Any], kept: list[str]) -> list[str]:
    """The source's row of a result: both come in the order of the requests."""
    if rows is None:
        return [line.get("custom_id") or str(line["index"])]
    for index, row in rows:
        if index == line["index"]:
            return [row[name] for name in kept]
    raise CommandFailure(
        "the file has fewer rows now than were submitted", "Take the results as --out results.jsonl."
    )


def _added_columns(line: Mapping[str, Any]) -> list[str]:
    error = line.get("error") or {}
    return [answer_of(line), line["status"], error.get("message") or "", line["task_id"]]


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines out of a stream, without their ends."""
    rest = b""
    for chunk in chain(chunks, (b"\n",)):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from filter(None, lines)
