"""`penstock watch`, `results`, `cancel`, `retry`, `pause` and `resume`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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

from app.cli.batch.results import (
    Output,
    load_job,
    out_options,
    output_of,
    split_lines,
    write_lines,
    write_results,
)
from app.cli.failure import CommandFailure, Exit
from app.cli.remote import Remote, with_remote
from app.platform.domain.event_stream import EventReader

ENDS = ("completed", "failed", "expired", "cancelled")
PARTIAL = 5  # exit code: some requests have no result
_AGAIN_SECONDS = 2.0  # before asking again after the service did not answer
_PATIENCE_SECONDS = 300.0  # how long the service may be unreachable

Batch = dict[str, Any]


def watch(remote: Remote, batch_id: str, *, max_cost: float | None = None) -> Batch:
    """Show a batch's progress until it ends; returns its final state. Ctrl-C only stops watching.

    Cancels it when its cost exceeds `max_cost` (in its currency). Raises CommandFailure.
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
                click.echo(f"The cost of {money(batch)} exceeds --max-cost. Cancelling.", err=True)
                remote.post(f"/v1/batch/{batch_id}/cancel")
    return batch


def states(remote: Remote, batch_id: str) -> Iterator[Batch]:
    """Yield a batch's states until it ends; tolerates some minutes without the service. Raises CommandFailure."""
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
        yield from (orjson.loads(event.data) for event in reader.feed(chunk) if event.name == "batch")


def ended_count(batch: Batch) -> int:
    """The number of requests that have ended."""
    counts = batch["request_counts"]
    return int(counts["total"] if batch["status"] in ENDS else counts["completed"] + counts["failed"])


def facts(batch: Batch) -> str:
    """The text after the progress bar."""
    words = [f"{batch['request_counts']['failed']:,} failed"]
    words += [f"{count:,} {name.replace('_', ' ')}" for name, count in batch.get("finish_counts", {}).items()]
    if batch.get("paused_at"):
        words.append("paused")
    if batch.get("cost"):
        words.append(money(batch))
    return ", ".join(words)


def cost_of(batch: Batch) -> float:
    """Its cost in its currency; 0 while unknown."""
    cost = batch.get("cost")
    return float(cost["micros"]) / 1e6 if cost else 0.0


def money(batch: Batch) -> str:
    """Its cost with its currency."""
    cost = batch.get("cost")
    return f"{cost['micros'] / 1e6:.4f} {cost['currency']}" if cost else "unknown cost"


def exit_code(batch: Batch) -> int:
    """0: every request succeeded; 5: some did; 1: none did."""
    counts = batch["request_counts"]
    if counts["completed"] == counts["total"] and batch["status"] == "completed":
        return int(Exit.OK)
    return PARTIAL if counts["completed"] else int(Exit.FAILED)


@click.command("watch", short_help="watch a batch until it ends")
@click.argument("batch_id")
@out_options
@with_remote
def watch_command(remote: Remote, batch_id: str, out: Path | None, excel: bool, raw_cells: bool) -> None:
    """Watch a batch until it ends. The batch continues if you stop watching.

    \b
    penstock watch batch_06f3... --out results.csv
    """
    wanted = output_of(out, excel, raw_cells)
    finish(remote, follow(remote, batch_id), wanted)


@click.command("results", short_help="write the results of a batch, complete or so far")
@click.argument("batch_id")
@out_options
@with_remote
def results(remote: Remote, batch_id: str, out: Path | None, excel: bool, raw_cells: bool) -> None:
    """Write the results of a batch in request order. Requests that have not ended are omitted.

    \b
    penstock results batch_06f3... --out results.jsonl
    """
    fetch(remote, batch_id, output_of(out, excel, raw_cells))
    batch = remote.get(f"/v1/batch/{batch_id}")
    if batch["status"] in ENDS:
        sys.exit(exit_code(batch))


@click.command("cancel", short_help="cancel a batch")
@click.argument("batch_id")
@with_remote
def cancel(remote: Remote, batch_id: str) -> None:
    """Cancel a batch. Waiting requests end at once; running calls finish and their results are kept.

    \b
    penstock cancel batch_06f3...
    """
    print_status(remote.post(f"/v1/batch/{batch_id}/cancel"))


@click.command("retry", short_help="rerun the failed lines of a batch")
@click.argument("batch_id")
@click.option("--watch", "watching", is_flag=True, help="Watch it until it ends.")
@out_options
@with_remote
def retry(
    remote: Remote, batch_id: str, watching: bool, out: Path | None, excel: bool, raw_cells: bool
) -> None:
    """Rerun only the failed lines of a batch.

    \b
    penstock retry batch_06f3... --watch
    """
    wanted = output_of(out, excel, raw_cells)
    print_status(remote.post(f"/v1/batch/{batch_id}/retry"))
    if watching:
        finish(remote, follow(remote, batch_id), wanted)


def follow(remote: Remote, batch_id: str, max_cost: float | None = None) -> Batch:
    """Watch a batch until it ends; Ctrl-C only stops watching."""
    try:
        return watch(remote, batch_id, max_cost=max_cost)
    except KeyboardInterrupt:
        click.echo(f"\nThe batch continues. Watch it again: penstock watch {batch_id}", err=True)
        sys.exit(130)


def finish(remote: Remote, batch: Batch, out: Output | None) -> None:
    """Print how it ended, fetch its results and exit with the matching code."""
    print_status(batch)
    remembered = load_job(batch["id"]).out
    chosen = out or (Output(Path(remembered)) if remembered else None)
    if chosen is not None:
        fetch(remote, batch["id"], chosen)
    sys.exit(exit_code(batch))


def fetch(remote: Remote, batch_id: str, out: Output | None) -> None:
    """Write the results to a file or standard output."""
    lines = split_lines(remote.stream(f"/v1/batch/{batch_id}/results"))
    if out is None:
        write_lines(lines, sys.stdout)
        return
    count = write_results(lines, out, load_job(batch_id))
    click.echo(f"Wrote {count:,} results to {out.path}", err=True)


def print_status(batch: dict[str, Any]) -> None:
    """Print a batch's status."""
    counts = batch["request_counts"]
    cost = f", {money(batch)}" if batch.get("cost") else ""
    words = f"{counts['completed']:,} of {counts['total']:,} done, {counts['failed']:,} failed{cost}"
    click.echo(f"{batch['id']} {batch['status']}: {words}", err=True)


def _what(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--client", help="All waiting tasks of this client."),
        click.option("--model", help="All waiting tasks for this model."),
        click.option("--everything", is_flag=True, help="All waiting tasks."),
        click.argument("batch_id", required=False),
    ):
        command = option(command)
    return command


@click.command("pause", short_help="pause a batch, model, client or everything")
@_what
@with_remote
def pause(
    remote: Remote, batch_id: str | None, everything: bool, model: str | None, client: str | None
) -> None:
    """Pause a batch, model, client or everything. Running calls finish; nothing new starts.

    A pause lasts until `resume`, across restarts. New submissions are still accepted.

    \b
    penstock pause batch_06f3...
    penstock pause --model deepseek-flash
    penstock pause --everything
    """
    subject = _subject(batch_id, everything, model, client)
    if batch_id is not None:
        print_status(remote.post(f"/v1/batch/{batch_id}/pause"))
    else:
        _list(remote.post("/v1/admin/pauses", subject))


@click.command("resume", short_help="resume a paused batch, model, client or everything")
@_what
@with_remote
def resume(
    remote: Remote, batch_id: str | None, everything: bool, model: str | None, client: str | None
) -> None:
    """Resume a paused batch, model, client or everything.

    \b
    penstock resume batch_06f3...
    penstock resume --model deepseek-flash
    """
    subject = _subject(batch_id, everything, model, client)
    if batch_id is not None:
        print_status(remote.post(f"/v1/batch/{batch_id}/resume"))
    else:
        before = {pause["subject"] for pause in remote.get("/v1/admin/pauses")["data"]}
        after = remote.post("/v1/admin/pauses/end", subject)
        ended = before - {pause["subject"] for pause in after["data"]}
        (kind, name), *_ = subject.items()
        what = "everything" if kind == "everything" else f"{kind} {name}"
        click.echo(f"resumed: {what}" if ended else f"{what} was not paused")
        if after["data"]:
            _list({"data": after["data"]}, "still paused")


def _subject(batch_id: str | None, everything: bool, model: str | None, client: str | None) -> dict[str, Any]:
    """The API's form of what is named. Raises UsageError unless exactly one thing is."""
    named = {"batch": batch_id, "everything": everything or None, "model": model, "client": client}
    found = {name: value for name, value in named.items() if value is not None}
    if len(found) != 1:
        raise click.UsageError("give exactly one of BATCH_ID, --everything, --model and --client")
    return found


def _list(pauses: dict[str, Any], heading: str = "paused") -> None:
    subjects = [pause["subject"].replace(":", " ", 1) for pause in pauses["data"]]
    click.echo(f"{heading}: {', '.join(subjects)}" if subjects else "nothing is paused")
