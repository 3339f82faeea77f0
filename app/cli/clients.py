"""`penstock clients`: those who may submit."""

from __future__ import annotations

from datetime import UTC, datetime

import click
import orjson
from rich.console import Console
from rich.table import Table

from app.cli.db import database_url
from app.cli.keys_of_clients import group as keys
from app.services.manage_clients import NewClient
from app.services.manage_clients import add_client as add_to
from app.services.manage_clients import list_clients as list_in

PRIORITIES = ("high", "normal", "low")


@click.group("clients", short_help="add and list those who may submit")
def group() -> None:
    """Add and list clients: those who may submit, each with a share and secrets of its own.

    Works on the database itself (DATABASE_URL, else the data folder's), so that it works before the service.

    \b
    penstock clients add team-a --weight 2
    penstock clients list
    """


group.add_command(keys)


@group.command("add")
@click.argument("name")
@click.option("--weight", default=1.0, show_default=True, help="Its share of each quota, against others'.")
@click.option(
    "--priority",
    type=click.Choice(PRIORITIES),
    default="normal",
    show_default=True,
    help="Up to this one its priorities count against other clients'.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def add(name: str, weight: float, priority: str, as_json: bool) -> None:
    """Add a client, and print its API key and callback secret: this once, they are not stored readably.

    NAME is 1 to 40 of a-z, 0-9 and -.

    \b
    penstock clients add team-a --weight 2 --priority high
    """
    made = add_client(database_url(), name, weight=weight, priority=priority)
    if as_json:
        shown = {"id": made.id, "api_key": made.api_key, "callback_secret": made.callback_secret}
        click.echo(orjson.dumps(shown).decode())
        return
    click.echo(f"client           {made.id}")
    click.echo(f"API key          {made.api_key}")
    click.echo(f"callback secret  {made.callback_secret}")
    click.echo("Keep both now: they are not shown again.")


@group.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List clients, without their secrets.

    \b
    penstock clients list
    """
    from app.db.database import Database

    database = Database(database_url())
    try:
        rows = list_in(database)
    finally:
        database.close()
    if as_json:
        click.echo(orjson.dumps(rows).decode())
        return
    table = Table("client", "weight", "priority", "administrator", "since", box=None, header_style="bold")
    for row in rows:
        since = datetime.fromtimestamp(row.created_at, UTC).strftime("%Y-%m-%d %H:%M")
        table.add_row(row.id, f"{row.weight:g}", row.granted_priority, "yes" if row.is_admin else "", since)
    Console().print(table)


def add_client(url: str, name: str, *, weight: float = 1.0, priority: str = "normal") -> NewClient:
    """Add a client to the database at `url`. Raises Rejected, DatabaseUnreachable."""
    from app.adapters.clock import SystemClock
    from app.db.database import Database

    database = Database(url)
    try:
        return add_to(database, SystemClock(), name, weight=weight, granted_priority=priority)
    finally:
        database.close()
