"""`penstock cache`: hit rates, clearing, filling it with likely prompts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
import orjson

from app.cli.failure import CommandFailure, Exit
from app.cli.remote import Remote, with_remote
from app.cli.tables import new_table, print_tables


@click.group("cache", short_help="show, clear or fill the cache")
def group() -> None:
    """Show the cache's hit rates, clear it, or fill it with prompts that are likely to come.

    \b
    penstock cache stats
    penstock cache clear --client team-a
    penstock cache warm --top 20 --at 02:00 --budget 1
    """


@group.command("stats")
@click.option("--client", help="Only this client's.")
@click.option("--days", type=click.IntRange(1, 366), default=7, show_default=True, help="Days to add up.")
@click.option("--json", "as_json", is_flag=True, help="Print the raw JSON response.")
@with_remote
def stats(remote: Remote, client: str | None, days: int, as_json: bool) -> None:
    """Show what the cache holds and its hit rates by client and model.

    \b
    penstock cache stats --days 30
    """
    report = remote.get("/v1/cache", client=client, days=days)
    if as_json:
        click.echo(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
        return
    if not report["enabled"]:
        click.echo("The cache is off: set enabled = true in [cache].")
    elif report["entries"] is not None:
        bound = f"{report['max_entries']:,} at most, {report['eviction']} makes room"
        click.echo(f"{report['entries']:,} answers ({bound}); used by default: {report['usage']}")
    shown = new_table("client", "model", "tasks", "cache hits", "hit rate", "coalesced", "saved")
    for row in report["data"]:
        saved = f"{row['saved']} {row['currency']}" if row["currency"] else "-"
        counts = (f"{row['cache_hits']:,}", f"{row['hit_rate']:.1%}", f"{row['coalesced']:,}")
        shown.add_row(row["client"], row["model"], f"{row['tasks']:,}", *counts, saved)
    print_tables(shown)


@group.command("clear")
@click.option(
    "--client", help="Only this client's answers [default: all; without administrator rights, yours]."
)
@with_remote
def clear(remote: Remote, client: str | None) -> None:
    """Remove cached answers. Nothing else is changed; the next request of each kind calls the upstream.

    To invalidate one model's answers, change its `version` in the configuration instead.

    \b
    penstock cache clear
    penstock cache clear --client team-a
    """
    done = remote.post("/v1/cache/clear", {} if client is None else {"client": client})
    click.echo(f"Removed {done['removed']:,} cached answers")


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
