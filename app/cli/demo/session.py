"""One run of the demo, from start to figures."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import urllib3
from rich.console import Console

from app.access.manage_clients import CreatedClient, add_client
from app.cli.demo.backlog import FlowerBacklog
from app.cli.demo.display import Display
from app.cli.demo.figures import DemoFigures, ideal_seconds, limits_of
from app.cli.demo.service import DemoService, service
from app.cli.demo.work import DemoSubmission, DemoWatch, all_tasks, prompts, spans, submit
from app.cli.failure import CommandFailure
from app.cli.listener import Listener
from app.cli.remote import Remote
from app.platform.database import Database
from app.platform.ports import SystemClock
from app.settings import load_settings

LATENCY_SECONDS = 0.8  # of a simulated answer, on average
POLL_SECONDS = 0.4
TELL_SECONDS = 60.0  # for callbacks after the last task
PATIENCE_SECONDS = 60.0  # for the tasks, and two more for each of them


def run(console: Console, count: int, configuration: Path, *, simulated: bool) -> DemoFigures:
    """Start the service, work with it, end it. Raises Failure."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it cleans up as after a Ctrl-C
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
    """1. A client of our own. 2. Submit. 3. Watch it drain. 4. Wait for the callbacks. 5. Gather the figures."""
    client = _client(running.profile.database_url)
    remote = Remote(running.profile.url, client.api_key)
    display.say(f"API {remote.url}   Flower {running.profile.flower_url}")
    with Listener([client.callback_secret]) as listener, FlowerBacklog(running.profile) as backlog:
        submitted = submit(remote, prompts(count), listener.url)
        _drain(display, DemoWatch(remote, submitted), backlog, count)
        display.show("waiting for callbacks", count, now=True)
        listener.wait_for(
            lambda got: len({r.id for r in got if r.verified}) >= submitted.callbacks, TELL_SECONDS
        )
        return _figures(count, submitted, remote, listener, backlog)


def _client(url: str) -> CreatedClient:
    database = Database(url)
    try:
        return add_client(database, SystemClock(), "demo")
    finally:
        database.close()


def _drain(display: Display, watch: DemoWatch, backlog: FlowerBacklog, count: int) -> None:
    """Until every task has ended. Raises Failure after long enough."""
    deadline = time.monotonic() + PATIENCE_SECONDS + 2.0 * count
    while (progress := watch.progress()).ended < count:
        if time.monotonic() > deadline:
            raise CommandFailure(f"{count - progress.ended} of {count} tasks have not ended in time")
        seen = f"Flower: {backlog.waiting} in backlog queues, {backlog.released} in key queues"
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
    """The 429s that the simulator has answered."""
    stats = urllib3.request("GET", f"{running.profile.simulator_url}/stats", timeout=10, retries=False).json()
    return sum(stats["totals"]["refused"].values())
