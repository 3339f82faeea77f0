"""`penstock cache`: fills the cache with likely prompts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
import orjson

from app.cli.failure import CommandFailure, Exit
from app.cli.remote import Remote, with_remote


@click.group("cache", short_help="fill the cache with likely prompts")
def group() -> None:
    """Fill the cache with prompts that are likely to come.

    \b
    penstock cache warm prompts.txt --budget 0.50
    penstock cache warm --top 20 --at 02:00 --budget 1
    """


@group.command("warm")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--top", type=click.IntRange(1, 1000), help="Warm your N most frequent prompts of the last week."
)
@click.option("--at", metavar="HH:MM", help="Start at this local time, today or tomorrow.")
@click.option("--off-peak", is_flag=True, help="Only in the upstream's off-peak hours.")
@click.option("--budget", default="1", show_default=True, help="Maximum cost, in the currency of the prices.")
@with_remote
def warm(
    remote: Remote, file: Path | None, top: int | None, at: str | None, off_peak: bool, budget: str
) -> None:
    """Submit likely prompts at low priority so that their answers are cached.

    FILE holds one prompt a line, or one JSON request a line ({"prompt": ..., "parameters": ...}), the most likely
    first. What is kept already is not asked again. It stops before it could cost more than the budget.

    \b
    penstock cache warm prompts.txt --budget 0.50
    penstock cache warm --top 20 --at 02:00 --budget 1
    """
    if (file is None) == (top is None):
        raise CommandFailure(
            "give either FILE or --top", "For instance: penstock cache warm --top 20", Exit.USAGE
        )
    body: dict[str, Any] = {"budget": budget, "off_peak": off_peak}
    body |= {"requests": list(_requests(file))} if file is not None else {"top": top}
    if at is not None:
        body["run_at"] = _next(at, datetime.now().astimezone()).timestamp()
    done = remote.post("/v1/cache/warm", body)
    if not done["task_ids"] and not done["left_out"]:
        click.echo("Nothing to warm: no prompts in the last week." if top else f"{file} contains no prompts.")
        return
    money = f"{done['ceiling']} {done['currency'] or ''}".strip()
    click.echo(f"Submitted {len(done['task_ids']):,} tasks at low priority, up to {money}")
    if done["left_out"]:
        click.echo(f"{done['left_out']:,} prompts did not fit into the budget")


def _requests(file: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise CommandFailure(
            f"{file}: not UTF-8 ({error.reason})", "Write one prompt per line, in UTF-8."
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
                f"{file}, line {number}: not JSON ({error})", "Write one request per line."
            ) from None


def _next(text: str, now: datetime) -> datetime:
    """The next time the clock shows HH:MM."""
    try:
        wanted = datetime.strptime(text, "%H:%M").time()  # noqa: DTZ007  # a time of day
    except ValueError:
        raise CommandFailure(f"--at {text}: not a time of day", "Write it like 02:00.", Exit.USAGE) from None
    today = now.replace(hour=wanted.hour, minute=wanted.minute, second=0, microsecond=0)
    return today if today > now else today + timedelta(days=1)
