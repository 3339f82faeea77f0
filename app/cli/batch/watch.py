"""Watch a batch to its end: a bar with what is done, failed, the pace, the time left and the cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
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

from app.cli.failure import CommandFailure, Exit
from app.cli.remote import Remote
from app.platform.domain.event_stream import EventReader

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
