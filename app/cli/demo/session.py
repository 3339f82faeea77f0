"""One run of the demo: submit, watch, collect the figures."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import urllib3
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from app.access.manage_clients import CreatedClient, add_client
from app.cli.demo.figures import DemoFigures, ideal_seconds, limits_of
from app.cli.demo.service import DemoService, FlowerBacklog, service
from app.cli.failure import CommandFailure
from app.cli.listen import Listener
from app.cli.remote import Remote
from app.platform.database import Database
from app.platform.ports import SystemClock
from app.settings import load_settings

LINE_SECONDS = 3.0


class Display:
    """A progress bar of `total` tasks with Flower's figures next to it."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._live = console.is_terminal
        self._said_at = 0.0
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bar = Progress(
            *columns, TimeElapsedColumn(), TextColumn("[cyan]{task.fields[flower]}"), console=console
        )
        self._row = self._bar.add_task("starting", total=total, flower="")

    def __enter__(self) -> Self:
        if self._live:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Print a permanent line."""
        (self._bar.console if self._live else self._console).print(text, highlight=False)

    def show(self, what: str, done: int = 0, flower: str = "", *, now: bool = False) -> None:
        """Show the progress. Without a terminal: a line every few seconds, or `now`."""
        if self._live:
            self._bar.update(self._row, description=what, completed=done, flower=flower)
            return
        if now or time.monotonic() - self._said_at >= LINE_SECONDS:
            self._said_at = time.monotonic()
            self._console.print(f"{what}: {done:,}/{self._total:,}  {flower}".rstrip(), highlight=False)


PROMPTS = Path(__file__).with_name("prompts.txt")
SINGLY = 0.2  # share submitted one by one; the rest is one batch
_PRIORITIES = ("normal", "high", "normal", "low")
_PAGE = 100


@dataclass(frozen=True, slots=True)
class DemoSubmission:
    """The accepted tasks."""

    task_ids: tuple[str, ...]  # submitted one by one
    batch_id: str
    batch_size: int
    callbacks: int  # expected: one per single task, one for the batch


@dataclass(frozen=True, slots=True)
class DemoProgress:
    """Tasks that have ended."""

    succeeded: int
    failed: int  # or cancelled, or expired

    @property
    def ended(self) -> int:
        """All tasks that have ended."""
        return self.succeeded + self.failed


def prompts(count: int) -> list[str]:
    """Return `count` prompts, alternately English and Chinese; they repeat after 200."""
    known = PROMPTS.read_text(encoding="utf-8").splitlines()
    return [known[number % len(known)] for number in range(count)]


def submit(remote: Remote, texts: Sequence[str], callback_url: str) -> DemoSubmission:
    """Submit a fifth one by one, with mixed priorities, and the rest as a batch."""
    single = max(1, round(len(texts) * SINGLY))
    ids = [
        remote.post(
            "/v1/tasks",
            {
                "prompt": text,
                "parameters": {"max_tokens": 200},
                "priority": _PRIORITIES[number % len(_PRIORITIES)],
                "callback_url": callback_url,
                "metadata": {"demo": "single"},
            },
        )["id"]
        for number, text in enumerate(texts[:single])
    ]
    requests = [{"prompt": text, "parameters": {"max_tokens": 200}} for text in texts[single:]]
    batch = remote.post("/v1/batch", {"requests": requests, "callback_url": callback_url})
    return DemoSubmission(tuple(ids), batch["id"], len(requests), callbacks=single + 1)


class DemoWatch:
    """Polls the tasks; ended ones are not polled again."""

    def __init__(self, remote: Remote, submitted: DemoSubmission) -> None:
        self._remote = remote
        self._submitted = submitted
        self._ended: dict[str, str] = {}

    def progress(self) -> DemoProgress:
        """Poll now. Raises CommandFailure."""
        for task_id in self._submitted.task_ids:
            if task_id not in self._ended:
                status = self._remote.get(f"/v1/tasks/{task_id}")["status"]
                if status not in ("queued", "running"):
                    self._ended[task_id] = status
        counts = self._remote.get(f"/v1/batch/{self._submitted.batch_id}")["request_counts"]
        good = sum(status == "succeeded" for status in self._ended.values())
        bad = len(self._ended) - good
        return DemoProgress(good + counts["completed"], bad + counts["failed"] + counts.get("cancelled", 0))


def all_tasks(remote: Remote) -> list[dict[str, Any]]:
    """All tasks of this client."""
    found: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        page = remote.get("/v1/tasks", limit=_PAGE, after=after)
        found += page["data"]
        if not page["has_more"] or not page["data"]:
            return found
        after = page["last_id"]


def spans(tasks: Sequence[dict[str, Any]]) -> tuple[list[float], float]:
    """(seconds from submission to end of each ended task, seconds from the first submission to the last end)."""
    times = [(_seconds(t["created_at"]), _seconds(t["finished_at"])) for t in tasks if t["finished_at"]]
    if not times:
        return [], 0.0
    return [end - start for start, end in times], max(t[1] for t in times) - min(t[0] for t in times)


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


LATENCY_SECONDS = 0.8  # of a simulated answer, on average
POLL_SECONDS = 0.4
CALLBACK_SECONDS = 60.0  # wait for callbacks after the last task
PATIENCE_SECONDS = 60.0  # wait for the tasks, plus two seconds per task


def run(console: Console, count: int, configuration: Path, *, simulated: bool) -> DemoFigures:
    """Start the service, run the prompts, stop the service. Raises CommandFailure."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as after Ctrl-C
    options = ["--config", str(configuration)]
    options += ["--simulate", "--latency", f"lognormal:{LATENCY_SECONDS},0.4"] if simulated else []
    with Display(console, count) as display, service(options, lambda: display.show("starting")) as running:
        figures = _work(display, running, count)
        if simulated:
            limits = limits_of(load_settings(configuration, {}), LATENCY_SECONDS)
            figures.ideal_seconds = ideal_seconds(count, limits, LATENCY_SECONDS)
            figures.refusals = _refusals(running)
        display.show("stopping", count, now=True)
    return figures


def _work(display: Display, running: DemoService, count: int) -> DemoFigures:
    """Create a client, submit, watch the backlog drain, wait for callbacks, collect the figures."""
    client = _client(running.profile.database_url)
    remote = Remote(running.profile.url, client.api_key)
    display.say(f"API {remote.url}   Flower {running.profile.flower_url}")
    with Listener([client.callback_secret]) as listener, FlowerBacklog(running.profile) as backlog:
        submitted = submit(remote, prompts(count), listener.url)
        _drain(display, DemoWatch(remote, submitted), backlog, count)
        display.show("waiting for callbacks", count, now=True)
        listener.wait_for(
            lambda got: len({r.id for r in got if r.verified}) >= submitted.callbacks, CALLBACK_SECONDS
        )
        return _figures(count, submitted, remote, listener, backlog)


def _client(url: str) -> CreatedClient:
    database = Database(url)
    try:
        return add_client(database, SystemClock(), "demo")
    finally:
        database.close()


def _drain(display: Display, watch: DemoWatch, backlog: FlowerBacklog, count: int) -> None:
    """Wait until every task has ended. Raises CommandFailure on timeout."""
    deadline = time.monotonic() + PATIENCE_SECONDS + 2.0 * count
    while (progress := watch.progress()).ended < count:
        if time.monotonic() > deadline:
            raise CommandFailure(f"{count - progress.ended:,} of {count:,} tasks did not finish in time")
        seen = f"Flower: {backlog.waiting:,} in backlog queues, {backlog.released:,} in key queues"
        display.show("running", progress.ended, seen)
        time.sleep(POLL_SECONDS)
    display.show("done", count, now=True)


def _figures(
    count: int, submitted: DemoSubmission, remote: Remote, listener: Listener, backlog: FlowerBacklog
) -> DemoFigures:
    tasks = all_tasks(remote)
    waits, seconds = spans(tasks)
    receipts = listener.receipts
    succeeded = sum(task["status"] == "succeeded" for task in tasks)
    return DemoFigures(
        tasks=count,
        succeeded=succeeded,
        failed=len(tasks) - succeeded,
        seconds=seconds,
        callbacks_due=submitted.callbacks,
        callbacks_verified=len({receipt.id for receipt in receipts if receipt.verified}),
        callbacks_bad=sum(not receipt.verified for receipt in receipts),
        backlog_peak=backlog.peak,
        waits=waits,
    )


def _refusals(running: DemoService) -> int:
    """The simulator's count of 429s."""
    stats = urllib3.request("GET", f"{running.profile.simulator_url}/stats", timeout=10, retries=False).json()
    return sum(stats["totals"]["refused"].values())
