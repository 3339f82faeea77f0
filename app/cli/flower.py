"""`penstock flower`: Flower with authentication, read-only, and how its server is started."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from types import FrameType
from typing import Any

import click
from celery import Celery
from tornado.ioloop import IOLoop, PeriodicCallback
from tornado.template import Loader, Template

from app.cli import profile
from app.cli.failure import CommandFailure, Exit

# Flower has its own /metrics. prometheus_client decides where values are kept when Flower imports it, so that this
# comes first: a folder taken away later makes every event fail.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

from flower.app import Flower
from flower.command import apply_env_options, extract_settings, settings
from flower.options import options


@click.command("flower", short_help="run Flower, the view of queues, workers and tasks")
@click.option("--address", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=5555, show_default=True, help="Port to listen on.")
@click.option("--url-prefix", default="", help="Path prefix behind a proxy, such as /flower.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder with the profile [default: .penstock].")
def command(address: str, port: int, url_prefix: str, data: Path | None) -> None:
    """Run Flower, read-only with basic authentication, showing every backlog and key queue with its length.

    User and password come from PENSTOCK_FLOWER_AUTH=user:password, else from the profile in the data folder,
    where they are made when there are none. With PENSTOCK_DASHBOARD_URL its pages link back to the dashboard.
    Flower's own settings (FLOWER_AUTH, FLOWER_OAUTH2_KEY ...) are taken from the environment too.

    \b
    PENSTOCK_FLOWER_AUTH=ops:secret penstock flower --port 5555
    penstock flower --url-prefix /flower        behind a proxy
    """
    from app.composition.container import from_environment

    dashboard = os.environ.get("PENSTOCK_DASHBOARD_URL", "").rstrip("/")
    choices = FlowerChoices(address, port, credentials(os.environ, data), url_prefix.strip("/"), dashboard)
    serve(from_environment().celery, choices)


def credentials(environ: Mapping[str, str], data: Path | None) -> str:
    """`user:password` as set, as stored, or created now and stored. Raises CommandFailure."""
    given = environ.get("PENSTOCK_FLOWER_AUTH") or environ.get("FLOWER_BASIC_AUTH")
    if given:
        user, _, password = given.partition(":")
        if not user or not password:
            raise CommandFailure("PENSTOCK_FLOWER_AUTH is not user:password", code=Exit.CONFIGURATION)
        return given
    folder = profile.data_folder(environ, data)
    known = profile.load(folder)
    if not known.flower_auth:
        known = replace(known, flower_auth=f"penstock:{secrets.token_urlsafe(12)}")
        profile.save(folder, known)
        click.echo(f"Created a user and password for Flower, stored in {folder / 'profile.json'}")
    return known.flower_auth


_BAR = '<ul class="app-nav navbar-nav">'
_TASK = "{% block container %}"


class LinkedTemplates(Loader):
    """Adds links to the dashboard. Templates that a later Flower has changed are left as they are."""

    def __init__(self, folder: str, dashboard_url: str) -> None:
        super().__init__(folder)
        self._url = escape(dashboard_url, quote=True)

    def _create_template(self, name: str) -> Template:
        text = (Path(self.root) / name).read_text(encoding="utf-8")
        if name == "navbar.html":
            link = f'<li class="nav-item"><a class="nav-link" href="{self._url}/">Penstock</a></li>'
            text = text.replace(_BAR, _BAR + link, 1)
        elif name == "task.html":
            text = text.replace(_TASK, _TASK + self._task_link(), 1)
        return Template(text, name=name, loader=self)

    def _task_link(self) -> str:
        href = f"{self._url}/tasks/{{{{ url_escape(task.uuid) }}}}"
        return f'<p class="px-3 pt-3 mb-0"><a href="{href}">This task in Penstock</a></p>'


INSPECT_SECONDS = 3.0  # wait for workers' answers; a busy one needs more than Flower's 1 s
QUEUES_SECONDS = 2.0
ALL_SECONDS = 30.0
FORGET_SECONDS = 60.0  # a worker silent for this long is forgotten
MAX_TASKS = 10_000


@dataclass(frozen=True, slots=True)
class FlowerChoices:
    """Where Flower listens and its credentials."""

    address: str
    port: int
    credentials: str  # user:password
    url_prefix: str = ""
    dashboard_url: str = ""  # for links back to the dashboard; empty: none


def serve(celery: Celery, choices: FlowerChoices) -> None:
    """Run until SIGTERM or SIGINT. Raises CommandFailure when the port is taken."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    _set_options(choices)
    extract_settings()
    if isinstance(celery.conf.task_queues, Mapping):  # Flower reads a list of them
        celery.conf.task_queues = list(celery.conf.task_queues.values())
    if choices.dashboard_url:
        settings["template_loader"] = LinkedTemplates(settings["template_path"], choices.dashboard_url)
    flower = Flower(capp=celery, options=options, **settings)
    renewal = Renewal(flower)
    renewal.first()
    try:
        port = flower.start_http_server()
    except OSError as error:
        raise CommandFailure(
            f"Flower cannot listen on {choices.address}:{choices.port}: {error.strerror}"
        ) from error
    click.echo(f"Flower is ready at http://{options.address}:{port}/{choices.url_prefix}")
    _end_on_signal(flower.io_loop)
    PeriodicCallback(renewal.tick, QUEUES_SECONDS * 1000).start()
    flower.start()
    os._exit(0)  # no state to save; do not wait for threads that await workers' answers


def _set_options(choices: FlowerChoices) -> None:
    """Set Penstock's options; the operator's own FLOWER_... settings override them."""
    options.address = choices.address
    options.port = choices.port
    options.basic_auth = [] if os.environ.get("FLOWER_AUTH") else [choices.credentials]
    options.read_only = True
    options.max_tasks = MAX_TASKS
    options.inspect_timeout = INSPECT_SECONDS * 1000
    options.purge_offline_workers = int(FORGET_SECONDS)
    options.url_prefix = choices.url_prefix or None
    apply_env_options()


def _end_on_signal(loop: IOLoop) -> None:
    def end(_number: int, _frame: FrameType | None) -> None:
        loop.add_callback_from_signal(loop.stop)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


class Renewal:
    """Asks the workers for their queues every two seconds, and for everything else every 30 s.

    Each asking ends when as many have answered as are known to live, so that it mostly takes milliseconds.
    """

    def __init__(self, flower: Flower) -> None:
        self._flower = flower
        self._asking = False
        self._all_at = 0.0

    def first(self) -> None:
        """Wait a few seconds at most for one worker's answer before the page is served."""
        self._take(self._ask(1), time.time())

    async def tick(self) -> None:
        """Ask, unless an answer is still pending. Called by Flower's loop."""
        if self._asking:
            return
        self._asking = True
        try:
            loop = self._flower.io_loop
            self._take(await loop.run_in_executor(None, self._ask, self._alive() or 1), time.time())
        finally:
            self._asking = False
        self._ask_for_everything(time.monotonic())

    def _alive(self) -> int:
        return len(list(self._flower.events.state.alive_workers()))

    def _ask(self, alive: int) -> dict[str, Any]:
        """Each worker's queues. Blocks until `alive` workers have answered or the timeout ends."""
        inspect = self._flower.capp.control.inspect(timeout=INSPECT_SECONDS, limit=alive)
        try:
            return inspect.active_queues() or {}
        except self._flower.capp.connection_for_read().recoverable_connection_errors as error:
            logging.getLogger(__name__).warning("Redis is unreachable: %s", type(error).__name__)
            return {}

    def _take(self, answers: dict[str, Any], now: float) -> None:
        """Store the answers in Flower; forget silent workers, whose queues would otherwise stay."""
        known = self._flower.workers
        for name, queues in answers.items():
            known[name].update(active_queues=queues, timestamp=now)
        for name in [
            name for name, seen in known.items() if now - seen.get("timestamp", now) > FORGET_SECONDS
        ]:
            del known[name]

    def _ask_for_everything(self, now: float) -> None:
        """Ask for statistics and configuration as Flower does, more often while no worker is known."""
        if now < self._all_at:
            return
        self._all_at = now + (ALL_SECONDS if self._flower.workers else QUEUES_SECONDS)
        self._flower.update_workers()
