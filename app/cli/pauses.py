"""`penstock pause` and `penstock resume`: a batch, or everything, a model, a client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from app.cli.batch.commands import tell
from app.cli.remote import Remote, with_remote


def _what(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--client", help="All that this client has waiting."),
        click.option("--model", help="All that waits for this model."),
        click.option("--everything", is_flag=True, help="All that waits."),
        click.argument("batch_id", required=False),
    ):
        command = option(command)
    return command


@click.command("pause", short_help="start nothing more of a batch, a model, a client, or at all")
@_what
@with_remote
def pause(
    remote: Remote, batch_id: str | None, everything: bool, model: str | None, client: str | None
) -> None:
    """Start nothing more of a batch, a model, a client, or at all; running calls are let finish.

    It stands until it is resumed, whatever is restarted. Submissions are taken all the same.

    \b
    penstock pause batch_06f3...
    penstock pause --model deepseek-flash
    penstock pause --everything
    """
    subject = _subject(batch_id, everything, model, client)
    if batch_id is not None:
        tell(remote.post(f"/v1/batch/{batch_id}/pause"))
    else:
        _list(remote.post("/v1/admin/pauses", subject))


@click.command("resume", short_help="let go on what was paused")
@_what
@with_remote
def resume(
    remote: Remote, batch_id: str | None, everything: bool, model: str | None, client: str | None
) -> None:
    """Let a paused batch, model or client, or everything, go on.

    \b
    penstock resume batch_06f3...
    penstock resume --model deepseek-flash
    """
    subject = _subject(batch_id, everything, model, client)
    if batch_id is not None:
        tell(remote.post(f"/v1/batch/{batch_id}/resume"))
    else:
        _list(remote.post("/v1/admin/pauses/end", subject))


def _subject(batch_id: str | None, everything: bool, model: str | None, client: str | None) -> dict[str, Any]:
    """As the API takes it. Raises UsageError unless exactly one thing is named."""
    named = {"batch": batch_id, "everything": everything or None, "model": model, "client": client}
    found = {name: value for name, value in named.items() if value is not None}
    if len(found) != 1:
        raise click.UsageError("name one of BATCH_ID, --everything, --model and --client")
    return found


def _list(pauses: dict[str, Any]) -> None:
    subjects = [pause["subject"].replace(":", " ", 1) for pause in pauses["data"]]
    click.echo(f"paused: {', '.join(subjects)}" if subjects else "nothing is paused")
