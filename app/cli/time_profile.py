"""`penstock profile`: where tasks spend their time. (Not the data folder's profile: that is profile.py.)"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.diagnosis.domain.finding import milliseconds
from app.diagnosis.domain.percentiles import Percentiles
from app.diagnosis.domain.time_split import GroupTimes
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

    Percentiles by part, model and key, with network and inference apart. Then proposes values for limits, concurrency,
    batch_size, tiers, max_tokens, gzip, cache and the order of prompts, with what each would bring. Reads the database
    directly; above 100,000 calls it uses a sample and says so. Opens three connections to each upstream. For operators
    only: it shows the first words of the most frequent prompts.

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
    from app.diagnosis.probe_upstream import round_trip
    from app.diagnosis.profile_tasks import ProfileTasks

    found = find(config, data, environ)
    if not found.settings.database_url:
        hint = "Set DATABASE_URL, or start the service once: penstock up"
        raise CommandFailure("no database is configured", hint, Exit.CONFIGURATION)
    settings = found.settings
    upstreams = {upstream.name: upstream for upstream in settings.upstreams}
    trips = {name: round_trip(each.proxy or each.base_url) for name, each in upstreams.items()}
    of_keys = {key.name: took for key in settings.keys if (took := trips[key.upstream]) is not None}
    unpacked = {key.name: key.upstream for key in settings.keys if not upstreams[key.upstream].gzip}
    parts = Container(settings)
    now = time.time()
    try:
        report = ProfileTasks(
            parts.database, parts.topology, settings.worker.concurrency, of_keys, unpacked
        ).report
        return report(now - seconds, now)
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
                **_percentiles(report.split.spread.get(part), "per_call_"),
            }
            for part, value in report.split.seconds.items()
        ],
        "held_back": [
            {"quota": one.quota, "figure": one.figure, "seconds": round(one.seconds, 3), "calls": one.calls}
            for one in report.split.held_back
        ],
        "in_force": [
            {
                "account": one.account,
                "model": one.model,
                "rpm": round(one.rpm, 2),
                "concurrency": one.concurrency,
                "seconds": round(one.seconds, 3),
                "calls": one.calls,
            }
            for one in report.split.lowered
        ],
        "by_model_and_key": [_group(one) for one in report.split.groups],
        "serialising_seconds": round(report.serialising, 7) or None,
        "advice": report.advice,
        "proposals": [
            {
                "setting": one.setting,
                "now": one.now,
                "value": one.value,
                "gain": one.gain or None,
                "reason": one.reason,
            }
            for one in report.proposals
            if one.setting
        ],
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


def _percentiles(found: Percentiles | None, prefix: str) -> dict[str, float | None]:
    names = Percentiles._fields
    return {f"{prefix}{name}": None if found is None else round(getattr(found, name), 4) for name in names}


def _group(one: GroupTimes) -> dict[str, Any]:
    spreads = {"waited": one.waited, "call": one.took, "network": one.network, "inference": one.inference}
    return {
        "model": one.model,
        "key": one.key,
        "calls": one.calls,
        "failed": one.failed,
        "tokens": one.tokens,
        **{f"{name}_seconds": found and _percentiles(found, "") for name, found in spreads.items()},
    }


def show(report: Report) -> None:
    """Print the report as text."""
    console = Console(highlight=False, soft_wrap=True)
    found = report.split
    console.print(f"{_sample(report.calls, 'calls')} ended in {_span(report)}.")
    if found.calls:
        console.print(_parts(report))
        console.print(_groups(found.groups))
        if report.serialising:
            console.print(
                f"Writing and reading a request's JSON takes {1e6 * report.serialising:,.0f} us, measured now."
            )
    for held in found.held_back:
        console.print(f"  {escape(held.quota)}: {held.figure} delayed {held.calls:,} calls")
    console.print("[bold]Advice[/bold]")
    for line in report.advice or ("No suggestions.",):
        console.print(f"  {escape(line)}")
    if report.sealed:
        console.print("  Prompts are encrypted with a key that is not set here, so they were not compared.")
    if report.repeats:
        console.print(f"[bold]Most frequent prompts[/bold] ({_sample(report.prompts, 'prompts')})")
        console.print(_repeated(report))


def _parts(report: Report) -> Table:
    heads = ("part", "seconds", "per call", "P50", "P90", "P99", "share", "")
    table = Table(*heads, box=None, header_style="bold")
    total = report.split.total or 1.0
    for part, seconds in report.split.seconds.items():
        share = seconds / total
        mean = milliseconds(seconds / report.split.calls)
        spread = [milliseconds(value) for value in report.split.spread.get(part, ())] or ["-"] * 3
        table.add_row(part.value, f"{seconds:,.1f}", mean, *spread, f"{share:.1%}", "█" * round(share * _BAR))
    return table


_GROUPS_SHOWN = 20


def _groups(groups: Sequence[GroupTimes]) -> Table:
    heads = ("model", "key", "calls", "failed", "waited", "call", "network", "inference")
    table = Table(
        *heads,
        box=None,
        header_style="bold",
        caption="seconds, P50/P90/P99; -: not measured",
        caption_justify="left",
    )
    for one in groups[:_GROUPS_SHOWN]:
        spreads = (one.waited, one.took, one.network, one.inference)
        shown = ["-" if found is None else "/".join(f"{value:.3g}" for value in found) for found in spreads]
        table.add_row(escape(one.model), escape(one.key), f"{one.calls:,}", f"{one.failed:,}", *shown)
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


def _sample(looked: SampleSize, what: str) -> str:
    if looked.sampled:
        return f"About {looked.rows:,} {what}, {looked.read:,} of them read,"
    return f"{looked.read:,} {what}"


def _span(report: Report) -> str:
    minutes = (report.until - report.since) / 60
    return f"the last {minutes:g} minutes" if minutes < 120 else f"the last {minutes / 60:g} hours"
