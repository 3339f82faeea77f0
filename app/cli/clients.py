"""`penstock clients`, `penstock clients keys` and `penstock apply`: who may submit, and with which API keys."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import orjson

from app.access.domain.caller import SCOPES
from app.access.manage_clients import add_client, change_client, get_client, list_clients
from app.cli.failure import CommandFailure
from app.cli.profile import audited, on_database, opened
from app.cli.tables import new_table, print_tables
from app.platform.domain.times import parse_duration


@click.group("keys", short_help="list, add, rotate and revoke a client's API keys")
def keys_group() -> None:
    """List, add, rotate and revoke a client's API keys.

    \b
    penstock clients keys add team-a --scope tasks:read --expires 90d
    penstock clients keys rotate team-a ak_06f3... --overlap 24h
    """


@keys_group.command("list")
@on_database
@click.argument("client")
def list_keys_command(client: str) -> None:
    """List a client's keys as JSON lines, without the secrets.

    \b
    penstock clients keys list team-a | jq 'select(.revoked_at == null)'
    """
    from app.access.manage_clients import key_json
    from app.access.manage_keys import list_keys

    with opened() as database:
        for key in list_keys(database, client):
            click.echo(orjson.dumps(key_json(key)).decode())


@keys_group.command("add")
@on_database
@click.argument("client")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    help=f"{', '.join(SCOPES)}, AREA:* or *; repeatable [default: *].",
)
@click.option("--expires", help='Lifetime, such as "90d" [default: unlimited].')
@click.option("--name", help="A label.")
@click.option("--user", help="The person who will hold it, as named in policies and the audit log.")
def add_key(
    client: str, scopes: tuple[str, ...], expires: str | None, name: str | None, user: str | None
) -> None:
    """Create a key and print it. It is not shown again.

    \b
    penstock clients keys add team-a --scope tasks:* --scope batches:* --expires 90d --user alice
    """
    from app.access.manage_keys import KeyParams, create_key
    from app.platform.ports import SystemClock

    clock = SystemClock()
    ends = None if expires is None else clock.now() + _duration("--expires", expires)
    with opened() as database:
        made = create_key(database, clock, client, KeyParams(scopes or ("*",), ends, name, user))
        audited(database, "key.add", f"{client}/{made.row.id}")
    click.echo(made.shown)


@keys_group.command("rotate")
@on_database
@click.argument("client")
@click.argument("key_id")
@click.option("--overlap", default="24h", show_default=True, help="How long the old key stays valid.")
def rotate(client: str, key_id: str, overlap: str) -> None:
    """Replace a key: print the new one (not shown again); the old one expires after the overlap.

    \b
    penstock clients keys rotate team-a ak_06f3... --overlap 24h
    """
    from app.access.manage_keys import rotate_key
    from app.platform.ports import SystemClock

    with opened() as database:
        made = rotate_key(database, SystemClock(), client, key_id, _duration("--overlap", overlap))
        audited(database, "key.rotate", f"{client}/{key_id}")
    click.echo(made.shown)


@keys_group.command("revoke")
@on_database
@click.argument("client")
@click.argument("key_id")
def revoke(client: str, key_id: str) -> None:
    """Revoke a key. Every process refuses it within seconds.

    \b
    penstock clients keys revoke team-a ak_06f3...
    """
    from app.access.manage_keys import revoke_key
    from app.platform.ports import SystemClock

    with opened() as database:
        revoke_key(database, SystemClock(), client, key_id)
        audited(database, "key.revoke", f"{client}/{key_id}")
    click.echo("Revoked.")


def _duration(option: str, text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from None


PRIORITIES = ("high", "normal", "low")


@click.group("clients", short_help="add, change and list clients")
def group() -> None:
    """Add, change and list clients. Each has its own share of the quotas, limits and secrets.

    Works on the database itself (DATABASE_URL, else the data folder's), so that it works before the service.
    `penstock apply` does the same from a file.

    \b
    penstock clients add team-a --weight 2
    penstock clients set team-a --limit rpm=600 --limit tokens_per_day=5000000
    penstock clients list
    """


group.add_command(keys_group)


@group.command("add")
@on_database
@click.argument("name")
@click.option(
    "--weight", default=1.0, show_default=True, help="Its share of each quota, relative to other clients."
)
@click.option(
    "--priority",
    type=click.Choice(PRIORITIES),
    default="normal",
    show_default=True,
    help="The highest of its priorities that counts against other clients.",
)
@click.option("--team", help="Its team.")
@click.option("--administers", help="The team whose clients it may manage.")
@click.option("--limit", "limits", multiple=True, metavar="NAME=VALUE", help="See `clients set`; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def add(
    name: str,
    weight: float,
    priority: str,
    team: str | None,
    administers: str | None,
    limits: Sequence[str],
    as_json: bool,
) -> None:
    """Add a client and print its API key and callback secret. They are not shown again.

    NAME has 1 to 40 characters of a-z, 0-9, _ and -.

    \b
    penstock clients add team-a --weight 2 --priority high --limit rpm=600
    """
    from app.access.manage_clients import check_limits, client_json
    from app.platform.ports import SystemClock

    checked = check_limits(_limits({}, limits))
    with opened() as database:
        made = add_client(
            database,
            SystemClock(),
            name,
            weight=weight,
            granted_priority=priority,
            team=team,
            administers=administers,
            limits=checked,
        )
        audited(database, "client.add", name)
        row = get_client(database, name)
    if as_json:
        secrets = {"api_key": made.api_key, "callback_secret": made.callback_secret}
        click.echo(orjson.dumps({**client_json(row), **secrets}).decode())
        return
    click.echo(f"client           {made.id}")
    click.echo(f"API key          {made.api_key}")
    click.echo(f"callback secret  {made.callback_secret}")
    click.echo("Save both now: they are not shown again.")


@group.command("set")
@on_database
@click.argument("name")
@click.option("--weight", type=float, help="Its share of each quota, relative to other clients.")
@click.option(
    "--priority",
    "granted_priority",
    type=click.Choice(PRIORITIES),
    help="The highest of its priorities that counts against other clients.",
)
@click.option("--team", help='Its team; "" for none.')
@click.option("--administers", help='The team whose clients it may manage; "" for none.')
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="NAME=VALUE",
    help="rpm, most_waiting, tokens_per_day, tokens_per_month, money_per_day, money_per_month, currency, "
    "over_budget (refuse, wait), order (arrival, deadline), store (true, false), retention_seconds; an empty "
    "value removes it; repeatable.",
)
def set_(name: str, limits: Sequence[str], **asked: Any) -> None:
    """Change the named settings of a client and print the result. Takes effect within five seconds.

    \b
    penstock clients set team-a --weight 3 --limit rpm=600
    penstock clients set team-a --limit money_per_day=12.50 --limit currency=USD --limit over_budget=wait
    penstock clients set team-a --limit rpm=
    """
    from app.access.manage_clients import check_limits, client_json

    changes: dict[str, Any] = {field: value for field, value in asked.items() if value is not None}
    changes |= {field: changes[field] or None for field in ("team", "administers") if field in changes}
    if not changes and not limits:
        raise click.UsageError("nothing to change; see: penstock clients set --help")
    with opened() as database:
        if limits:
            present = client_json(get_client(database, name))["limits"]
            changes["limits"] = check_limits(_limits(present, limits))
        row = change_client(database, name, changes)
        audited(database, "client.change", name)
    click.echo(orjson.dumps(client_json(row)).decode())


@group.command("show")
@on_database
@click.argument("name")
def show(name: str) -> None:
    """Print a client as JSON, without its secrets.

    \b
    penstock clients show team-a
    """
    from app.access.manage_clients import client_json

    with opened() as database:
        click.echo(orjson.dumps(client_json(get_client(database, name)), option=orjson.OPT_INDENT_2).decode())


@group.command("list")
@on_database
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List clients, without their secrets.

    \b
    penstock clients list
    """
    from app.access.manage_clients import client_json

    with opened() as database:
        rows = list_clients(database)
    if as_json:
        click.echo(orjson.dumps([client_json(row) for row in rows]).decode())
        return
    shown = new_table("client", "weight", "priority", "team", "administers", "limits", "since")
    for row in rows:
        since = datetime.fromtimestamp(row.created_at, UTC).strftime("%Y-%m-%d %H:%M")
        limits = ", ".join(f"{name} {value}" for name, value in client_json(row)["limits"].items())
        over = "everything" if row.is_admin else row.administers or ""
        shown.add_row(row.id, f"{row.weight:g}", row.granted_priority, row.team or "", over, limits, since)
    print_tables(shown)


def _limits(present: dict[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """The limits with the given NAME=VALUE pairs applied; an empty value removes one."""
    found = dict(present)
    for text in given:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise click.UsageError(f"--limit {text}: write NAME=VALUE, such as rpm=600")
        if not value:
            found.pop(name, None)
        else:
            found[name] = value if name.startswith("money_") else _value(value)
    return found


def _value(text: str) -> Any:
    """The value as a number or boolean if it is one, else as text."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return value if isinstance(value, bool | int | float) else text


@click.command("apply", short_help="create and change clients from a file, with a diff first")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@on_database
@click.option("--dry-run", is_flag=True, help="Only show the changes.")
def apply_command(file: Path, yes: bool, dry_run: bool) -> None:
    """Create and change clients as described in FILE. Clients are never removed.

    New clients' keys are printed once. A [[client]] has an id and optionally weight, granted_priority, team,
    administers and a table limits.

    \b
    penstock apply clients.toml
    """
    from app.access.apply_clients import apply_change, plan, read_clients_file
    from app.platform.ports import SystemClock

    with opened() as database:
        changes = plan(database, read_clients_file(_parsed(file)))
        for change in changes:
            for line in change.lines():
                click.echo(line)
        if not changes:
            click.echo("No changes.")
        if not changes or dry_run:
            return
        if not yes:
            click.confirm("Apply these changes?", abort=True)
        for change in changes:
            made = apply_change(database, SystemClock(), change)
            audited(database, "client.add" if made else "client.change", change.id)
            if made:
                click.echo(f"{made.id}: API key {made.api_key}, callback secret {made.callback_secret}")


def _parsed(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CommandFailure(f"{file}: not TOML: {error}", "Write [[client]] tables in TOML.") from None
