"""`penstock apply clients.toml`: make clients as a file says, after showing what would change."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import click

from app.cli.audited import audited
from app.cli.failure import CommandFailure
from app.cli.opened import on_database, opened


@click.command("apply", short_help="make clients as a file says, with a diff first")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--yes", is_flag=True, help="Do it without asking.")
@on_database
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
def command(file: Path, yes: bool, dry_run: bool) -> None:
    """Make clients as FILE says: those that are missing are added, others changed. None is ever removed.

    New clients' keys are printed this once. A [[client]] holds id, and any of weight, granted_priority, team,
    administers and a table limits.

    \b
    penstock apply clients.toml
    """
    from app.access.apply_clients import carry_out, plan, read_wishes
    from app.platform.ports import SystemClock

    with opened() as database:
        changes = plan(database, read_wishes(_parsed(file)))
        for change in changes:
            for line in change.lines():
                click.echo(line)
        if not changes:
            click.echo("Nothing to do.")
        if not changes or dry_run:
            return
        if not yes:
            click.confirm("Do it?", abort=True)
        for change in changes:
            made = carry_out(database, SystemClock(), change)
            audited(database, "client.add" if made else "client.change", change.id)
            if made:
                click.echo(f"{made.id}: API key {made.api_key}, callback secret {made.callback_secret}")


def _parsed(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CommandFailure(f"{file}: not TOML: {error}", "Write [[client]] tables") from None
