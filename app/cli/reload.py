"""`penstock reload`, and what SIGHUP does to `penstock up`."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click
import urllib3

from app.cli.failure import CommandFailure
from app.cli.profile import configuration, database_url, folder, on_database
from app.cli.setup import Setup, UpParams, reconfigure
from app.cli.supervisor.loop import Hangup, Supervisor
from app.platform.database import Database
from app.platform.domain.errors import PenstockError
from app.settings import Settings
from app.settings.follow_configuration import ask_reload

# Sections that are only read at process start: a change restarts the processes.
AT_START = ("api", "worker", "metrics")


@dataclass(slots=True)
class Reload:
    """Handles SIGHUP for `penstock up`. Created at the start, while the terminal exists."""

    params: UpParams
    setup: Setup
    settings: Settings  # in force
    supervisor: Supervisor
    say: Callable[[str], None]
    hangup: Hangup = field(default_factory=Hangup)

    def hung_up(self) -> None:
        """Handle SIGHUP: stop if the terminal was closed, else reload."""
        if self.hangup.happened():
            self.supervisor.stop()
        else:
            self.reload()

    def reload(self) -> None:
        """Check the configuration, then let every process apply it; restart those that read a changed section at start.

        The dispatcher reads nothing at its start alone: it is never away because of a reload.
        """
        try:
            settings = reconfigure(self.params, self.setup.stack, os.environ)
            if self.setup.stack.simulator_file is not None:
                _tell_simulator(self.setup.profile.simulator_url, self.setup.stack.simulator_file)
            ask(self.setup.environment["DATABASE_URL"])
        except (PenstockError, CommandFailure) as error:
            self.say(f"Not reloaded; the current configuration stays in use: {error}")
            return
        restart = needs_restart(self.settings, settings)
        self.settings = settings
        if restart:
            self.say("Reloading: restarting the components that read the configuration, one by one")
            self.supervisor.renew()
        else:
            self.say(
                "Reloading: every process applies the new configuration within a second, without a restart"
            )


def needs_restart(before: Settings, after: Settings) -> bool:
    """Whether a section changed that is only read at process start."""
    return any(getattr(before, name) != getattr(after, name) for name in AT_START)


def ask(database_url: str) -> int:
    """Ask every process to reload its configuration; returns the reload's number. Raises DatabaseUnreachable."""
    database = Database(database_url)
    try:
        return database.write(lambda conn: ask_reload(conn, time.time()))
    finally:
        database.close()


def _tell_simulator(url: str, file: Path) -> None:
    """Change the simulator's limits while it runs; calls in flight continue."""
    try:
        answer = urllib3.request(
            "POST", f"{url}/_sim/config", body=file.read_bytes(), timeout=10, retries=False
        )
    except urllib3.exceptions.HTTPError as error:
        raise CommandFailure(f"the simulated upstream does not answer ({type(error).__name__})") from error
    if answer.status != 200:
        raise CommandFailure(
            f"the simulated upstream rejects the new limits: {answer.data.decode(errors='replace')}"
        )


@click.command("reload", short_help="reload penstock.toml without a restart")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="File to check [default: the running service's, $PENSTOCK_CONFIG, ./penstock.toml].",
)
@on_database
def reload_command(config: Path | None) -> None:
    """Reload penstock.toml in every process within a second, without losing a task.

    The file is checked first: an invalid one is rejected with its line and a hint (exit code 3), and the old one stays
    in force. Every process reads the file on its own machine: install the new one there first. A change to [api],
    [worker] or [metrics] needs a restart, which `penstock up` does automatically.

    \b
    penstock reload
    DATABASE_URL=postgresql://penstock@db/penstock penstock reload --config penstock.toml
    """

    from app.cli.supervisor.leftovers import supervisor_of
    from app.settings import load_settings

    load_settings(configuration(config), os.environ)
    supervisor = supervisor_of(folder() / "run")
    if supervisor is not None:
        os.kill(supervisor, signal.SIGHUP)
        click.echo("The file is valid. `penstock up` reloads it now and prints the result.")
        return
    number = ask(database_url())
    click.echo(f"The file is valid. Every process reloads its own within a second (reload {number}).")
