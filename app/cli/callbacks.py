"""`penstock callbacks`: undelivered callbacks, secrets and headers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click
import orjson

from app.cli.failure import CommandFailure
from app.cli.profile import audited, on_database, opened, parse_since
from app.cli.tables import new_table, print_tables
from app.platform.domain.times import parse_duration, to_rfc3339

if TYPE_CHECKING:
    from app.callbacks.dead_letters import DeadLetters
    from app.platform.database import Database


@click.group("callbacks", short_help="list and replay undelivered callbacks; rotate secrets; set headers")
def group() -> None:
    """List and replay undelivered callbacks; rotate secrets; set a client's callback headers.

    Works on the database itself (DATABASE_URL, else the data folder's).

    \b
    penstock callbacks dead
    penstock callbacks replay --since 2h
    penstock callbacks rotate-secret team-a
    """


@group.command("dead")
@on_database
@click.option("--client", help="Only this client's.")
@click.option(
    "--limit", type=click.IntRange(1), default=100, show_default=True, help="Maximum number, newest first."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
def dead(client: str | None, limit: int, as_json: bool) -> None:
    """List callbacks that could not be delivered, with the reason.

    \b
    penstock callbacks dead --client team-a
    """
    with opened() as database:
        found = _letters(database).list_dead(client, limit=limit)
    if as_json:
        for letter in found:
            click.echo(orjson.dumps(letter).decode())
        return
    shown = new_table("callback", "client", "event", "subject", "tries", "failed", "reason")
    for letter in found:
        subject = letter.task_id or letter.batch_id or ""
        at = to_rfc3339(letter.failed_at)
        row = (letter.id, letter.client_id, letter.type, subject, str(letter.tries), at, letter.reason or "")
        shown.add_row(*row)
    print_tables(shown)


@group.command("replay")
@on_database
@click.argument("callback", required=False)
@click.option("--since", help='All that failed since: "2h", "1d", or a time such as 2026-11-21T06:00:00Z.')
@click.option("--client", help="Only this client's.")
def replay(callback: str | None, since: str | None, client: str | None) -> None:
    """Redeliver failed callbacks: one by id, or all since a time. The webhook-id stays the same.

    \b
    penstock callbacks replay evt_06f3...
    penstock callbacks replay --since 2h --client team-a
    """
    if (callback is None) == (since is None):
        raise click.UsageError("give one callback id, or --since")
    with opened() as database:
        letters = _letters(database)
        if callback is not None:
            if not letters.replay(client, callback):
                raise CommandFailure("no failed callback has that id", "List them: penstock callbacks dead")
            audited(database, "callback.replay", callback)
            click.echo("Queued for redelivery.")
        else:
            count = letters.replay_since(client, parse_since(since or ""))
            audited(database, "callback.replay", client or "")
            click.echo(f"{count:,} callbacks queued for redelivery.")


@group.command("rotate-secret")
@on_database
@click.argument("client")
@click.option("--overlap", default="24h", show_default=True, help="How long the current secret still signs.")
def rotate_secret(client: str, overlap: str) -> None:
    """Create a new callback secret for a client and print it. It is not shown again.

    For the time of the overlap callbacks carry two signatures, so receivers may change at any moment of it.

    \b
    penstock callbacks rotate-secret team-a --overlap 2d
    """
    from app.access.domain.caller import SECRET_BYTES
    from app.callbacks.callback_settings import rotate_callback_secret
    from app.platform.ports import SystemClock

    seconds = _duration(overlap)
    with opened() as database:
        chance = os.urandom(SECRET_BYTES)
        secret = rotate_callback_secret(database, SystemClock(), client, chance, seconds)
        audited(database, "callback_secret.rotate", client)
    click.echo(secret)


@group.command("secret")
@on_database
@click.argument("client", default="admin")
def secret_(client: str) -> None:
    """Print what a client's callbacks are signed with: whsec_..., during a rotation both [default: admin].

    \b
    penstock callbacks secret
    penstock callbacks secret team-a
    """
    from app.callbacks.callback_settings import valid_secrets
    from app.platform.ports import SystemClock

    with opened() as database:
        secrets = valid_secrets(database, SystemClock(), client)
        audited(database, "callback_secret.show", client)
    for one in secrets:
        click.echo(one)


@group.command("headers")
@on_database
@click.argument("client")
@click.option("--header", "-H", "headers", multiple=True, metavar="'NAME: VALUE'", help="Repeatable.")
def headers_(client: str, headers: tuple[str, ...]) -> None:
    """Replace a client's own callback headers; without any, remove them.

    \b
    penstock callbacks headers team-a -H 'X-Gateway-Token: abc'
    """
    from app.callbacks.callback_settings import set_callback_headers

    pairs = dict(_header(header) for header in headers)
    with opened() as database:
        set_callback_headers(database, client, pairs)
        audited(database, "callback_headers.set", client)
    click.echo(f"{len(pairs)} callback headers set.")


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise click.UsageError("write a header as 'NAME: VALUE'")
    return name.strip(), value.strip()


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.UsageError(f"--overlap: {error}") from None


def _letters(database: Database) -> DeadLetters:
    """No notifier: the leader picks up replayed callbacks within a second."""
    from app.callbacks.dead_letters import DeadLetters
    from app.callbacks.domain.callback import NoCallbackNotifier
    from app.platform.ports import SystemClock

    return DeadLetters(database, NoCallbackNotifier(), SystemClock())
