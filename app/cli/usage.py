"""`penstock usage`: usage, cost and savings."""

from __future__ import annotations

from typing import Any

import click
import orjson

from app.billing.domain.usage import BY, TIMES, as_csv
from app.cli.remote import Remote, with_remote
from app.cli.tables import new_table, print_tables

_SHOWN = ("tasks", "calls", "cache_hits", "coalesced", "prompt_tokens", "cached_tokens", "completion_tokens")
_SAVED = ("saved_cache", "saved_coalescing", "saved_prompt_cache", "saved_off_peak")


@click.command("usage", short_help="show usage, cost and savings")
@click.option("--by", default="client,model", show_default=True, help=f"Group by: {', '.join(BY)}.")
@click.option(
    "--from", "first", metavar="DAY", help="First day (UTC), such as 2026-11-01 [default: 30 days ago]."
)
@click.option("--to", "last", metavar="DAY", help="Last day (UTC) [default: today].")
@click.option("--client", help="Only this client's.")
@click.option("--csv", "as_csv_", is_flag=True, help="Print CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print the raw JSON response.")
@with_remote
def command(
    remote: Remote,
    by: str,
    first: str | None,
    last: str | None,
    client: str | None,
    as_csv_: bool,
    as_json: bool,
) -> None:
    """Show usage, cost, savings and response times. Costs are exact; currencies are kept separate.

    \b
    penstock usage --by day,model
    penstock usage --by client,key --from 2026-11-01 --csv > november.csv
    """
    query = {"by": by, "from": first, "to": last, "client": client}
    report = remote.get("/v1/usage", **query)
    if as_json:
        click.echo(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    elif as_csv_:
        click.echo(as_csv(report["data"], report["by"]), nl=False)
    else:
        _show(report)


def _show(report: dict[str, Any]) -> None:
    shown = new_table(*report["by"], *_SHOWN, "cost", "saved", "unpriced", "p50 / p90 / p99 s")
    for row in report["data"]:
        names = [str(row[name]) for name in report["by"]]
        counts = [f"{row[name]:,}" for name in _SHOWN]
        money = (_money(row, "cost"), _saved(row), f"{row['unpriced_calls']:,}")
        shown.add_row(*names, *counts, *money, _times(row))
    print_tables(shown)
    wire = report.get("connections")
    if wire and wire["calls"]:
        click.echo(f"Connections opened to upstreams: {wire['per_1000_calls']} per 1,000 calls")


def _money(row: dict[str, Any], name: str) -> str:
    return f"{row[name]} {row['currency']}" if row[name] is not None else "unknown" if row["calls"] else "-"


def _times(row: dict[str, Any]) -> str:
    found = [row[name] for name in TIMES]
    return "-" if None in found else " / ".join(f"{seconds:.1f}" for seconds in found)


def _saved(row: dict[str, Any]) -> str:
    """What was saved and how; only non-zero amounts."""
    ways = (
        f"{name.removeprefix('saved_')} {row[name]}" for name in _SAVED if row[name] not in (None, "0.00")
    )
    return ", ".join(ways) or "-"
