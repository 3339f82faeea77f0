"""`penstock profile`: where tasks spend their time. (Not the data folder's profile: that is profile.py.)"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.diagnosis.domain.finding import milliseconds
from app.diagnosis.profile_tasks import Report, SampleSize
from app.platform.domain.money import amount
from app.platform.domain.times import parse_duration

_BAR = 24  # characters


@click.command("profile", short_help="show where tasks spend their time and what would help")
@click.option(
    "--since", default="1h", show_default=True, help="How far to look back, such as 90s, 10m, 24h or 7d."
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Configuration [default: the running service's, $PENSTOCK_CONFIG, ./penstock.toml].",
)
@click.option("--data", type=click.Path(path_type=Path), help="Folder with the profile [default: .penstock].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(since: str, config: Path | None, data: Path | None, as_json: bool) -> None:
    """Show where tasks spent their time: waiting for quotas and slots, connecting, first byte, answer, callback.

    Also suggests what would help: limits to raise, useless keys, max_tokens that are never reached, prompts worth
    caching. Reads the database directly; above 100,000 calls it uses a sample and says so. For operators only: it
    shows the first words of the most frequent prompts.

    \b
    penstock profile --since 24h
    penstock profile --json | jq .advice
    """
    try:
        seconds = parse_duration(since)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--since") from None
    report = read(config, data, os.environ, seconds)
    if as_json:
        click.echo(orjson.dumps(as_data(report), option=orjson.OPT_INDENT_2).decode())
    else:
        show(report)


def read(config: Path | None, data: Path | None, environ: Mapping[str, str], seconds: float) -> Report:
    """Report on the database in use. Raises CommandFailure, DatabaseUnreachable."""
    from app.cli.doctor.command import find
    from app.cli.failure import CommandFailure, Exit
    from app.composition.container import Container
    from app.diagnosis.profile_tasks import ProfileTasks

    found = find(config, data, environ)
    if not found.settings.database_url:
        hint = "Set DATABASE_URL, or start the service once: penstock up"
        raise CommandFailure("no database is configured", hint, Exit.CONFIGURATION)
    parts = Container(found.settings)
    now = time.time()
    try:
        return ProfileTasks(parts.database, parts.topology, found.settings.worker.concurrency).report(
            now - seconds, now
        )
    finally:
        parts.database.close()


def as_data(report: Report) -> dict[str, Any]:
    """The output of --json. Seconds are sums over all calls read."""
    total = report.split.total
    return {
        "since": datetime.fromtimestamp(report.since, UTC).isoformat(),
        "until": datetime.fromtimestamp(report.until, UTC).isoformat(),
        "calls": _looked(report.calls),
        "prompts": {**_looked(report.prompts), "sealed": report.sealed},
        "parts": [
            {
                "part": part.value,
                "seconds": round(value, 3),
                "share": round(value / total, 4) if total else 0.0,
            }
            for part, value in report.split.seconds.items()
        ],
        "held_back": [
            {"quota": one.quota, "figure": one.figure, "seconds": round(one.seconds, 3), "calls": one.calls}
            for one in report.split.held_back
        ],
        "advice": list(report.advice),
        "repeated_prompts": [
            {
                "client": one.client,
                "model": one.model,
                "sha256": one.fingerprint,
                "prompt": one.shown,
                "times": one.times,
                "uses_cache": one.uses_cache,
                "spare_cost": None if one.spare_picos is None else amount(one.spare_picos),
                "currency": one.currency or None,
            }
            for one in report.repeats
        ],
    }


def show(report: Report) -> None:
    """Print the report as text."""
    console = Console(highlight=False, soft_wrap=True)
    found = report.split
    console.print(f"{_told(report.calls, 'calls')} ended in {_span(report)}.")
    if found.calls:
        console.print(_parts(report))
    for held in found.held_back:
        console.print(f"  {escape(held.quota)}: {held.figure} delayed {held.calls:,} calls")
    console.print("[bold]Advice[/bold]")
    for line in report.advice or ("No suggestions.",):
        console.print(f"  {escape(line)}")
    if report.sealed:
        console.print("  Prompts are encrypted with a key that is not set here, so they were not compared.")
    if report.repeats:
        console.print(f"[bold]Most frequent prompts[/bold] ({_told(report.prompts, 'prompts')})")
        console.print(_repeated(report))


def _parts(report: Report) -> Table:
    table = Table("part", "seconds", "per call", "share", "", box=None, header_style="bold")
    total = report.split.total or 1.0
    for part, seconds in report.split.seconds.items():
        share = seconds / total
        mean = milliseconds(seconds / report.split.calls)
        table.add_row(part.value, f"{seconds:,.1f}", mean, f"{share:.1%}", "█" * round(share * _BAR))
    return table


def _repeated(report: Report) -> Table:
    table = Table("times", "client", "model", "prompt", "cache", "savings", box=None, header_style="bold")
    for one in report.repeats:
        spare = "unknown" if one.spare_picos is None else f"{amount(one.spare_picos)} {one.currency}"
        names = (escape(one.client), escape(one.model), escape(one.shown))
        table.add_row(f"{one.times:,}", *names, "on" if one.uses_cache else "off", spare)
    return table


def _looked(looked: SampleSize) -> dict[str, Any]:
    return {"rows": looked.rows, "read": looked.read, "sampled": looked.sampled}


def _told(looked: SampleSize, what: str) -> str:
    if looked.sampled:
        return f"About {looked.rows:,} {what}, {looked.read:,} of them read,"
    return f"{looked.read:,} {what}"


def _span(report: Report) -> str:
    minutes = (report.until - report.since) / 60
    return f"the last {minutes:g} minutes" if minutes < 120 else f"the last {minutes / 60:g} hours"
