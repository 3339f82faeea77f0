"""The parts of the service as single processes: what `up` starts, and what containers run."""

from __future__ import annotations

import os
from importlib import import_module
from ipaddress import ip_address
from tempfile import mkdtemp
from typing import Any

import click

from app.cli.failure import CommandFailure, Exit
from app.cli.supervisor import lifeline

CALLBACK_THREADS = 100


@click.command("api", short_help="the HTTP service")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, help="Port to listen on.")
@click.option("--processes", default=1, show_default=True, help="Processes; each takes its own long polls.")
@click.option(
    "--behind-proxy",
    is_flag=True,
    envvar="PENSTOCK_BEHIND_PROXY",
    help="Something that speaks TLS, or a private network of containers, stands before it.",
)
def api(host: str, port: int, processes: int, behind_proxy: bool) -> None:
    """Serve HTTP until SIGTERM: nothing new is accepted then, long polls answer at once, the rest finishes.

    \b
    penstock api --port 8000
    penstock api --host 0.0.0.0 --behind-proxy
    """
    if not (behind_proxy or is_loopback(host)):
        raise CommandFailure(
            f"plain HTTP on {host} would show keys and prompts to the network",
            "Put a proxy with TLS before it, and say so: --behind-proxy (or PENSTOCK_BEHIND_PROXY=1)",
            Exit.CONFIGURATION,
        )

    if processes > 1:
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", mkdtemp(prefix="penstock-metrics-"))
    from app.api.serve import Serving, serve
    from app.cli.limits import raise_open_files
    from app.settings import load_settings
    from app.wsgi import create_renewing

    raise_open_files()  # a connection each
    settings = load_settings(None, os.environ)
    serving = Serving(host, port, processes, settings.api.threads, settings.api.patience)
    serve(create_renewing, serving)


def metrics_option(command: Any) -> Any:
    """Where a part shows its figures; settings read the environment."""

    def keep(_context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
        if value:
            os.environ["PENSTOCK_METRICS_ADDRESS"] = value

    return click.option(
        "--metrics",
        metavar="HOST:PORT",
        envvar="PENSTOCK_METRICS_ADDRESS",
        callback=keep,
        expose_value=False,
        help="Show this process's figures there, for Prometheus.",
    )(command)


@click.command("dispatcher", short_help="what releases tasks as fast as quotas allow")
@metrics_option
def dispatcher() -> None:
    """Feed the backlog queues from the database, and release from them as fast as quotas allow.

    Several may run: one leads, another takes over within 3 s.

    \b
    penstock dispatcher
    """
    import_module("workers.dispatcher").main(lifeline.ready)


@click.command("worker", short_help="what calls the upstreams")
@click.option("--name", default="celery", show_default=True, help="Name in Flower, before @host.")
@click.option("--queues", "-Q", help="Key queues to consume, with commas [default: those of all keys].")
@click.option(
    "--region",
    "regions",
    multiple=True,
    envvar="PENSTOCK_WORKER_REGION",
    help="Consume the keys of upstreams in this region alone; may be given several times.",
)
@click.option("--concurrency", type=int, help="Calls at once [default: [worker] concurrency, 1000].")
@metrics_option
def worker(name: str, queues: str | None, regions: tuple[str, ...], concurrency: int | None) -> None:
    """Run released tasks: call the upstream, record what it came to.

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
        raise click.UsageError("-Q and --region both say what to consume: give one of them")
    if regions:
        queues = ",".join(key_queue(key) for key in keys_of_regions(settings, regions))
        os.environ[STARTED_FOR] = " ".join(regions)  # for reloads, in this very process
    _celery_worker(name, concurrency or settings.worker.concurrency, *(("-Q", queues) if queues else ()))


@click.command("callback-worker", short_help="what delivers callbacks")
@click.option("--name", default="celery", show_default=True, help="Name in Flower, before @host.")
@click.option("--concurrency", default=CALLBACK_THREADS, show_default=True, help="Deliveries at once.")
@metrics_option
def callback_worker(name: str, concurrency: int) -> None:
    """Deliver callbacks, apart from the workers, so that a slow receiver never holds an upstream slot.

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
    """Celery's own worker in this process: threads, events (which also wake it), no chatter between workers.

    Its command alone, not all of `celery`: that would load Flower and a terminal's line editor, ten megabytes.
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
