"""`penstock reload`: keys, quotas, models and the rest of penstock.toml, read again while everything runs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import click

from app.cli.opened import configuration, database_url, folder, on_database


@click.command("reload", short_help="read penstock.toml again: keys, quotas, models, while everything runs")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="File to check [default: the one it was started with, $PENSTOCK_CONFIG, ./penstock.toml].",
)
@on_database
def command(config: Path | None) -> None:
    """Read penstock.toml again in every process, within a second and without dropping a task.

    The file is checked first: a wrong one is refused with its line and its mend (exit code 3), and the old one stays
    in force. Every process reads the file on its own machine: put the new one there first. A change of [api],
    [worker], [storage] or [metrics] needs a new start, which `penstock up` sees to by itself.

    \b
    penstock reload
    DATABASE_URL=postgresql://penstock@db/penstock penstock reload --config penstock.toml
    """
    from app.cli.reload import ask
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
