"""`penstock clients keys ...`: the API keys of clients."""

from __future__ import annotations

import click
import orjson

from app.access.domain.caller import SCOPES
from app.cli.audited import audited
from app.cli.opened import on_database, opened
from app.platform.domain.times import parse_duration


@click.group("keys", short_help="a client's API keys: list, add, rotate, revoke")
def group() -> None:
    """A client's API keys: list, add, rotate, revoke.

    \b
    penstock clients keys add team-a --scope tasks:read --expires 90d
    penstock clients keys rotate team-a ak_06f3... --overlap 24h
    """


@group.command("list")
@on_database
@click.argument("client")
def list_(client: str) -> None:
    """List a client's keys, one JSON object a line, without the keys themselves.

    \b
    penstock clients keys list team-a | jq 'select(.revoked_at == null)'
    """
    from app.access.client_rendering import key_json
    from app.access.manage_keys import list_keys

    with opened() as database:
        for key in list_keys(database, client):
            click.echo(orjson.dumps(key_json(key)).decode())


@group.command("add")
@on_database
@click.argument("client")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    help=f"{', '.join(SCOPES)}, AREA:* or *; may be repeated; left out: everything.",
)
@click.option("--expires", help='After how long it ends, such as "90d".')
@click.option("--name", help="For people.")
@click.option("--user", help="Who will hold it; policies and the audit log know him by this.")
def add(
    client: str, scopes: tuple[str, ...], expires: str | None, name: str | None, user: str | None
) -> None:
    """Make a key, and print it: this once.

    \b
    penstock clients keys add team-a --scope tasks:* --scope batches:* --expires 90d --user alice
    """
    from app.access.manage_keys import KeyWish, create_key
    from app.platform.ports import SystemClock

    clock = SystemClock()
    ends = None if expires is None else clock.now() + _duration("--expires", expires)
    with opened() as database:
        made = create_key(database, clock, client, KeyWish(scopes or ("*",), ends, name, user))
        audited(database, "key.add", f"{client}/{made.row.id}")
    click.echo(made.shown)


@group.command("rotate")
@on_database
@click.argument("client")
@click.argument("key_id")
@click.option("--overlap", default="24h", show_default=True, help="How long the old one stays valid.")
def rotate(client: str, key_id: str, overlap: str) -> None:
    """Make a key in place of one that ends after the overlap, and print it: this once.

    \b
    penstock clients keys rotate team-a ak_06f3... --overlap 24h
    """
    from app.access.manage_keys import rotate_key
    from app.platform.ports import SystemClock

    with opened() as database:
        made = rotate_key(database, SystemClock(), client, key_id, _duration("--overlap", overlap))
        audited(database, "key.rotate", f"{client}/{key_id}")
    click.echo(made.shown)


@group.command("revoke")
@on_database
@click.argument("client")
@click.argument("key_id")
def revoke(client: str, key_id: str) -> None:
    """End a key now; within seconds in every process.

    \b
    penstock clients keys revoke team-a ak_06f3...
    """
    from app.access.manage_keys import revoke_key
    from app.platform.ports import SystemClock

    with opened() as database:
        revoke_key(database, SystemClock(), client, key_id)
        audited(database, "key.revoke", f"{client}/{key_id}")
    click.echo("It is revoked.")


def _duration(option: str, text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from None
