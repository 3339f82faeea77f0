"""`penstock cache`: answers asked for before they are asked."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
import orjson

from app.cli.failure import CommandFailure, Exit
from app.cli.remote import Remote, with_remote


@click.group("cache", short_help="ask likely prompts before they are asked")
def group() -> None:
    """Fill the cache with what will be asked.

    \b
    penstock cache warm prompts.txt --budget 0.50
    penstock cache warm --top 20 --at 02:00 --budget 1
    """


@group.command("warm")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--top", type=click.IntRange(1, 1000), help="Your most frequent prompts of the last week.")
@click.option(
    "--at", metavar="HH:MM", help="Not before this time of today or tomorrow, by this machine's clock."
)
@click.option("--off-peak", is_flag=True, help="Not in the upstream's peak hours.")
@click.option(
    "--budget", default="1", show_default=True, help="The most that it may cost, in the prices' currency."
)
@with_remote
def warm(
    remote: Remote, file: Path | None, top: int | None, at: str | None, off_peak: bool, budget: str
) -> None:
    """Ask likely prompts at low priority, so that their answers are there when they are wanted.

    FILE holds one prompt a line, or one JSON request a line ({"prompt": ..., "parameters": ...}), the most likely
    first. What is kept already is not asked again. It stops before it could cost more than the budget.

    \b
    penstock cache warm prompts.txt --budget 0.50
    penstock cache warm --top 20 --at 02:00 --budget 1
    """
    if (file is None) == (top is None):
        raise CommandFailure("nothing, or two things, to warm", "Name a FILE, or say --top 20.", Exit.USAGE)
    body: dict[str, Any] = {"budget": budget, "off_peak": off_peak}
    body |= {"requests": list(_requests(file))} if file is not None else {"top": top}
    if at is not None:
        body["run_at"] = _next(at, datetime.now().astimezone()).timestamp()
    done = remote.post("/v1/cache/warm", body)
    if not done["task_ids"] and not done["left_out"]:
        click.echo(
            "Nothing to warm: you have asked nothing in the last week." if top else f"{file} holds no prompt."
        )
        return
    money = f"{done['ceiling']} {done['currency'] or ''}".strip()
    click.echo(f"Submitted {len(done['task_ids'])} tasks at low priority; at most {money}")
    if done["left_out"]:
        click.echo(f"Left out for want of budget: {done['left_out']}")


def _requests(file: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise CommandFailure(
            f"{file}: not UTF-8 ({error.reason})", "Write one prompt a line, in UTF-8."
        ) from None
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        if not text.startswith("{"):
            yield {"prompt": text}
            continue
        try:
            yield orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise CommandFailure(
                f"{file}, line {number}: not JSON ({error})", "Write one request a line."
            ) from None


def _next(text: str, now: datetime) -> datetime:
    """The next time that the clock shows HH:MM."""
    try:
        wanted = datetime.strptime(text, "%H:%M").time()  # noqa: DTZ007  # a time of day
    except ValueError:
        raise CommandFailure(f"--at {text}: not a time of day", "Write it like 02:00.", Exit.USAGE) from None
    today = now.replace(hour=wanted.hour, minute=wanted.minute, second=0, microsecond=0)
    return today if today > now else today + timedelta(days=1)
