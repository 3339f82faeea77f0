"""`penstock watch`, `results`, `cancel`, `retry`, `pause` and `resume`."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

import click
import orjson
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from app.cli.batch.prompts import TABLES, PromptFile
from app.cli.failure import CommandFailure, Exit
from app.cli.profile import data_folder, write_private
from app.cli.remote import Remote, with_remote
from app.platform.domain.event_stream import EventReader


@dataclass(frozen=True, slots=True)
class Job:
    """A batch's origin. Empty text: not known."""

    source: str = ""
    kind: str = ""
    out: str = ""
    encoding: str = ""
    delimiter: str = ""


def load_job(batch_id: str) -> Job:
    """What is known of a batch; an empty job where nothing is."""
    try:
        stored = json.loads(_place(batch_id).read_text())
        return Job(**{name: str(stored.get(name, "")) for name in Job.__slots__})
    except (OSError, ValueError, AttributeError):
        return Job()


def save_job(batch_id: str, job: Job) -> None:
    """Remember it."""
    place = _place(batch_id)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_private(place, json.dumps(asdict(job)) + "\n")


def _place(batch_id: str) -> Path:
    return data_folder(os.environ) / "jobs" / f"{Path(batch_id).name}.json"


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
        hint = "Put it back, or take the results as --out results.jsonl."
        raise CommandFailure(f"{source.path} is gone, whose columns are to be kept", hint)
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


ENDS = ("completed", "failed", "expired", "cancelled")
PARTIAL = 5  # exit code: some requests came to no result
_AGAIN_SECONDS = 2.0  # after the service did not answer
_PATIENCE_SECONDS = 300.0  # for which it may be away

Batch = dict[str, Any]


def watch(remote: Remote, batch_id: str, *, max_cost: float | None = None) -> Batch:
    """Show a batch until it has ended; gives back how it did. Ctrl-C ends the watching alone.

    Above `max_cost` units of its currency it is cancelled. Raises Failure.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    batch: Batch = {}
    with Progress(*columns, console=Console(stderr=True), transient=False) as bar:
        line = bar.add_task("validating", total=None, facts="")
        for batch in states(remote, batch_id):
            done = ended_count(batch)
            total = batch["request_counts"]["total"]
            bar.update(line, description=batch["status"], total=total, completed=done, facts=facts(batch))
            if max_cost is not None and cost_of(batch) > max_cost and batch["status"] == "in_progress":
                click.echo(f"It has cost {money(batch)}: more than --max-cost. Cancelling.", err=True)
                remote.post(f"/v1/batch/{batch_id}/cancel")
    return batch


def states(remote: Remote, batch_id: str) -> Iterator[Batch]:
    """A batch as it goes, to its end; the service may be away for some minutes. Raises Failure."""
    away_since: float | None = None
    while True:
        try:
            for batch in _events(remote, batch_id):
                away_since = None
                yield batch
                if batch["status"] in ENDS:
                    return
        except CommandFailure as failure:
            away_since = away_since or time.monotonic()
            away = time.monotonic() - away_since
            if failure.exit_code != Exit.UNREACHABLE or away > _PATIENCE_SECONDS:
                raise
        time.sleep(_AGAIN_SECONDS if away_since else 0.1)


def _events(remote: Remote, batch_id: str) -> Iterator[Batch]:
    reader = EventReader()
    for chunk in remote.stream(f"/v1/batch/{batch_id}/events"):
        yield from map(orjson.loads, reader.feed(chunk))


def ended_count(batch: Batch) -> int:
    """Requests that have come to an end."""
    counts = batch["request_counts"]
    return int(counts["total"] if batch["status"] in ENDS else counts["completed"] + counts["failed"])


def facts(batch: Batch) -> str:
    """What stands behind the bar."""
    words = [f"{batch['request_counts']['failed']} failed"]
    if batch.get("paused_at"):
        words.append("paused")
    if batch.get("cost"):
        words.append(money(batch))
    return ", ".join(words)


def cost_of(batch: Batch) -> float:
    """What it has cost in units of its currency; 0 while that is not known."""
    cost = batch.get("cost")
    return float(cost["micros"]) / 1e6 if cost else 0.0


def money(batch: Batch) -> str:
    """What it has cost, in words."""
    cost = batch.get("cost")
    return f"{cost['micros'] / 1e6:.4f} {cost['currency']}" if cost else "unknown cost"


def exit_code(batch: Batch) -> int:
    """0: every request succeeded; 5: some did; 1: none did."""
    counts = batch["request_counts"]
    if counts["completed"] == counts["total"] and batch["status"] == "completed":
        return int(Exit.OK)
    return PARTIAL if counts["completed"] else int(Exit.FAILED)


_out = click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="File for the results, .jsonl or .csv."
)


@click.command("watch", short_help="watch a batch to its end")
@click.argument("batch_id")
@_out
@with_remote
def watch_command(remote: Remote, batch_id: str, out: Path | None) -> None:
    """Watch a batch to its end; it goes on by itself when the watching ends.

    \b
    penstock watch batch_06f3... --out results.csv
    """
    finish(remote, follow(remote, batch_id), out)


@click.command("results", short_help="the results of a batch, so far or in whole")
@click.argument("batch_id")
@_out
@with_remote
def results(remote: Remote, batch_id: str, out: Path | None) -> None:
    """Write the results of a batch in the order of its requests; those that have not ended are left out.

    \b
    penstock results batch_06f3... --out results.jsonl
    """
    fetch(remote, batch_id, out)
    batch = remote.get(f"/v1/batch/{batch_id}")
    if batch["status"] in ENDS:
        sys.exit(exit_code(batch))


@click.command("cancel", short_help="cancel a batch")
@click.argument("batch_id")
@with_remote
def cancel(remote: Remote, batch_id: str) -> None:
    """Cancel a batch: what waits at once; running calls are let finish, and results are kept.

    \b
    penstock cancel batch_06f3...
    """
    tell(remote.post(f"/v1/batch/{batch_id}/cancel"))


@click.command("retry", short_help="run the failed lines of a batch again")
@click.argument("batch_id")
@click.option("--watch", "watching", is_flag=True, help="Watch it to its end.")
@_out
@with_remote
def retry(remote: Remote, batch_id: str, watching: bool, out: Path | None) -> None:
    """Run the failed lines of a batch again, those alone.

    \b
    penstock retry batch_06f3... --watch
    """
    tell(remote.post(f"/v1/batch/{batch_id}/retry"))
    if watching:
        finish(remote, follow(remote, batch_id), out)


def follow(remote: Remote, batch_id: str, max_cost: float | None = None) -> Batch:
    """Watch a batch to its end; Ctrl-C ends the watching alone."""
    try:
        return watch(remote, batch_id, max_cost=max_cost)
    except KeyboardInterrupt:
        click.echo(f"\nIt goes on. Watch it again: penstock watch {batch_id}", err=True)
        sys.exit(130)


def finish(remote: Remote, batch: Batch, out: Path | None) -> None:
    """Say how it ended, fetch its results, and exit by them."""
    tell(batch)
    chosen = out or (Path(remembered) if (remembered := load_job(batch["id"]).out) else None)
    if chosen is not None:
        fetch(remote, batch["id"], chosen)
    sys.exit(exit_code(batch))


def fetch(remote: Remote, batch_id: str, out: Path | None) -> None:
    """Write the results into a file, or to standard output."""
    lines = split_lines(remote.stream(f"/v1/batch/{batch_id}/results"))
    if out is None:
        write_lines(lines, sys.stdout)
        return
    count = write_results(lines, out, load_job(batch_id))
    click.echo(f"{count} results in {out}", err=True)


def tell(batch: dict[str, Any]) -> None:
    """Say how a batch stands."""
    counts = batch["request_counts"]
    cost = f", {money(batch)}" if batch.get("cost") else ""
    words = f"{counts['completed']} of {counts['total']} done, {counts['failed']} failed{cost}"
    click.echo(f"{batch['id']} {batch['status']}: {words}", err=True)


def _what(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--client", help="All that this client has waiting."),
        click.option("--model", help="All that waits for this model."),
        click.option("--everything", is_flag=True, help="All that waits."),
        click.argument("batch_id", required=False),
    ):
        command = option(command)
    return command


@click.command("pause", short_help="start nothing more of a batch, a model, a client, or at all")
@_what
@with_remote
def pause(
    remote: Remote, batch_id: str | None, everything: bool, model: str | None, client: str | None
) -> None:
    """Start nothing more of a batch, a model, a client, or at all; running calls are let finish.

    It stands until it is resumed, whatever is restarted. Submissions are taken all the same.

    \b
    penstock pause batch_06f3...
    penstock pause --model deepseek-flash
    penstock pause --everything
    """
    subject = _subject(batch_id, everything, model, client)
    if batch_id is not None:
        tell(remote.post(f"/v1/batch/{batch_id}/pause"))
    else:
        _list(remote.post("/v1/admin/pauses", subject))


@click.command("resume", short_help="let go on what was paused")
@_what
@with_remote
def resume(
    remote: Remote, batch_id: str | None, everything: bool, model: str | None, client: str | None
) -> None:
    """Let a paused batch, model or client, or everything, go on.

    \b
    penstock resume batch_06f3...
    penstock resume --model deepseek-flash
    """
    subject = _subject(batch_id, everything, model, client)
    if batch_id is not None:
        tell(remote.post(f"/v1/batch/{batch_id}/resume"))
    else:
        _list(remote.post("/v1/admin/pauses/end", subject))


def _subject(batch_id: str | None, everything: bool, model: str | None, client: str | None) -> dict[str, Any]:
    """As the API takes it. Raises UsageError unless exactly one thing is named."""
    named = {"batch": batch_id, "everything": everything or None, "model": model, "client": client}
    found = {name: value for name, value in named.items() if value is not None}
    if len(found) != 1:
        raise click.UsageError("name one of BATCH_ID, --everything, --model and --client")
    return found


def _list(pauses: dict[str, Any]) -> None:
    subjects = [pause["subject"].replace(":", " ", 1) for pause in pauses["data"]]
    click.echo(f"paused: {', '.join(subjects)}" if subjects else "nothing is paused")
