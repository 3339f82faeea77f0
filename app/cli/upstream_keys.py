"""`penstock keys`: upstream keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import orjson

from app.cli.failure import CommandFailure
from app.cli.remote import Remote, with_remote
from app.cli.status import keys_table
from app.cli.tables import print_tables

_json = click.option("--json", "as_json", is_flag=True, help="Print the raw JSON response.")


@click.group("keys", short_help="show, pause, resume and test upstream keys", invoke_without_command=True)
@click.option("--url", help="Address of the service [default: PENSTOCK_URL, the profile].")
@click.option("--key", help="API key [default: PENSTOCK_API_KEY, the profile].")
@click.option("--data", type=click.Path(path_type=Path), help="Folder with the profile [default: .penstock].")
@_json
@click.pass_context
def group(ctx: click.Context, /, **options: Any) -> None:
    """Show upstream keys: state, reason, configured and learned limits, use. Never shows secrets.

    \b
    penstock keys
    penstock keys test deepseek-main
    penstock keys pause deepseek-main
    """
    given = {name: value for name, value in options.items() if value}
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_, **options)
    elif given:  # the subcommand's own options go before them
        commands = group.commands
        ctx.default_map = {name: dict(given) for name in commands}


@group.command("list")
@_json
@with_remote
def list_(remote: Remote, as_json: bool) -> None:
    """List upstream keys.

    \b
    penstock keys list
    """
    found = remote.get("/v1/admin/keys")
    if as_json:
        click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
    else:
        print_tables(keys_table(found["data"]))


@group.command("pause")
@click.argument("name")
@with_remote
def pause(remote: Remote, name: str) -> None:
    """Start no calls with a key until it is resumed; running calls continue.

    \b
    penstock keys pause deepseek-main
    """
    _tell(_act(remote, name, "pause"))


@group.command("resume")
@click.argument("name")
@with_remote
def resume(remote: Remote, name: str) -> None:
    """Resume a key that was paused or refused by its upstream.

    \b
    penstock keys resume deepseek-main
    """
    _tell(_act(remote, name, "resume"))


@group.command("test")
@click.argument("name")
@with_remote
def test(remote: Remote, name: str) -> None:
    """Test a key by listing its upstream's models, which are compared with those configured. Exit code 1 if it fails.

    \b
    penstock keys test deepseek-main
    """
    found = _act(remote, name, "test")
    status = "no answer" if found["status"] is None else f"status {found['status']}"
    line = f"{name}: {found['words']} ({status}, {found['seconds'] * 1000:.0f} ms)"
    if found["finding"] not in ("works", "not_offered"):
        raise CommandFailure(
            line, "Check the upstream's message, and where penstock.toml takes the secret from."
        )
    click.echo(line)


def _act(remote: Remote, name: str, act: str) -> Any:
    return remote.post(f"/v1/admin/keys/{quote(name, safe='')}/{act}")


def _tell(key: dict[str, Any]) -> None:
    click.echo(f"{key['name']}: {key['state']}" + (f", {key['reason']}" if key["reason"] else ""))
