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

# Sections that a running process cannot change: it starts again for them.
AT_START = ("api", "worker", "storage", "metrics")


@dataclass(slots=True)
class Reload:
    """Made at the start, while the terminal is there."""

    wish: UpParams
    setup: Setup
    settings: Settings  # in force
    supervisor: Supervisor
    say: Callable[[str], None]
    hangup: Hangup = field(default_factory=Hangup)

    def hung_up(self) -> None:
        """SIGHUP came: the terminal was closed, and we end with it; or else it means to reload."""
        if self.hangup.happened():
            self.supervisor.stop()
        else:
            self.reload()

    def reload(self) -> None:
        """Check the configuration, and only then let it be read again: by running processes if they can take it."""
        try:
            settings = reconfigure(self.wish, self.setup.stack, os.environ)
            if self.setup.stack.simulator_file is not None:
                _tell_simulator(self.setup.profile.simulator_url, self.setup.stack.simulator_file)
            restart = needs_restart(self.settings, settings)
            if not restart:
                ask(self.setup.environment["DATABASE_URL"])
        except (PenstockError, CommandFailure) as error:
            self.say(f"Not reloaded, the configuration in use stays: {error}")
            return
        self.settings = settings
        if restart:
            self.say("Reloading: the components that read the configuration start again, one by one")
            self.supervisor.renew()
        else:
            self.say(
                "Reloading: every process takes the new configuration within a second, none starts again"
            )


def needs_restart(before: Settings, after: Settings) -> bool:
    """Whether something changed that is read at the start of a process alone."""
    return any(getattr(before, name) != getattr(after, name) for name in AT_START)


def ask(database_url: str) -> int:
    """Ask every process to read its configuration again; gives back the number. Raises DatabaseUnreachable."""
    database = Database(database_url)
    try:
        return database.write(lambda conn: ask_reload(conn, time.time()))
    finally:
        database.close()


def _tell_simulator(url: str, file: Path) -> None:
    """Its limits change while it runs: calls in flight go on."""
    try:
        answer = urllib3.request(
            "POST", f"{url}/_sim/config", body=file.read_bytes(), timeout=10, retries=False
        )
    except urllib3.exceptions.HTTPError as error:
        raise CommandFailure(f"the simulated upstream does not answer ({type(error).__name__})") from error
    if answer.status != 200:
        raise CommandFailure(
            f"the simulated upstream refuses the new limits: {answer.data.decode(errors='replace')}"
        )


@click.command("reload", short_help="read penstock.toml again: keys, quotas, models, while everything runs")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="File to check [default: the one it was started with, $PENSTOCK_CONFIG, ./penstock.toml].",
)
@on_database
def reload_command(config: Path | None) -> None:
    """Read penstock.toml again in every process, within a second and without dropping a task.

    The file is checked first: a wrong one is refused with its line and its hint (exit code 3), and the old one stays
    in force. Every process reads the file on its own machine: put the new one there first. A change of [api],
    [worker], [storage] or [metrics] needs a new start, which `penstock up` sees to by itself.

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
        click.echo("The file is good; `penstock up` reloads it now and says what comes of it.")
        return
    number = ask(database_url())
    click.echo(f"The file is good; every process reads its own within a second (reload {number}).")
