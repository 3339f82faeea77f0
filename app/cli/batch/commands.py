"""`penstock watch`, `results`, `cancel`, `pause`, `resume` and `retry`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from app.cli.batch.job import load_job
from app.cli.batch.results import split_lines, write_lines, write_results
from app.cli.batch.watch import ENDS, Batch, exit_code, money, watch
from app.cli.remote import Remote, with_remote

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
