"""`penstock status`: what limits throughput; every quota, key and worker."""

from __future__ import annotations

from typing import Any

import click
import orjson
from rich.table import Table

from app.cli.remote import Remote, with_remote
from app.cli.tables import new_table, print_tables


@click.command("status", short_help="show what limits throughput: quotas, keys, workers")
@click.option("--all", "all_", is_flag=True, help="Include quotas without limits or tasks.")
@click.option("--json", "as_json", is_flag=True, help="Print the raw JSON response.")
@with_remote
def command(remote: Remote, all_: bool, as_json: bool) -> None:
    """Print what limits throughput, then the leader, waiting tasks, quotas, keys and workers.

    \b
    penstock status
    penstock status --json | jq .holdup
    """
    found = remote.get("/v1/admin/dispatcher")
    if as_json:
        click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    click.echo(found["holdup"]["words"])
    click.echo(_leader(found))
    for pause in found["pauses"]:
        click.echo(f"paused since {pause['since']}: {pause['subject'].replace(':', ' ', 1)}")
    click.echo()
    print_tables(_models(found), _quotas(found, all_), keys_table(found["keys"]), _workers(found))


def keys_table(keys: list[dict[str, Any]]) -> Table:
    """The table of keys for `penstock keys` and `penstock status`."""
    shown = new_table("key", "upstream", "account", "state", "in flight", "last 60 s", "limits", "why")
    for key in keys:
        limits = "; ".join(filter(None, (_limits(quota) for quota in key["quotas"])))
        shown.add_row(
            key["name"],
            key["upstream"],
            key["account"],
            key["state"],
            f"{key['in_flight']:,}",
            f"{key['last_minute']:,}",
            limits or "unknown",
            _why_of_key(key),
        )
    return shown


def _leader(found: dict[str, Any]) -> str:
    leader = found["leader"]
    counts = f"{found['waiting']:,} waiting, {found['in_flight']:,} in flight, {found['slots']:,} slots"
    if not found["redis"]:
        return f"Redis does not answer; figures are from the database. {counts}"
    if not leader["beats"]:
        return f"No dispatcher is leading. {counts}"
    ticks = f"{leader['ticks']:,} ticks, last beat {leader['last_beat_at']}"
    return f"leader {leader['term'][:8]} since {leader['since']}, {ticks}; {counts}"


def _models(found: dict[str, Any]) -> Table:
    shown = new_table("model", "waiting", "waits for")
    for model in found["models"]:
        if model["waiting"]:
            shown.add_row(model["name"], f"{model['waiting']:,}", model["waiting_for"] or "unknown")
    return shown


def _quotas(found: dict[str, Any], all_: bool) -> Table:
    shown = new_table(
        "quota", "configured", "learned", "in force", "in flight", "last 60 s", "waiting", "why"
    )
    for quota in found["quotas"]:
        if all_ or _tells(quota):
            shown.add_row(
                quota["id"],
                *(_figures(quota[name]) for name in ("told", "learned", "in_force")),
                f"{quota['in_flight']:,}",
                f"{quota['last_minute']:,}",
                f"{quota['waiting']:,}",
                _why(quota),
            )
    return shown


def _workers(found: dict[str, Any]) -> Table:
    shown = new_table("worker", "host", "process", "slots", "held", "keys")
    for worker in found["workers"]:
        values = (worker[name] for name in ("host", "pid", "slots", "held"))
        cells = ("unknown" if value is None else str(value) for value in values)
        shown.add_row(worker["id"][-8:], *cells, ", ".join(worker["keys"]))
    return shown


def _tells(quota: dict[str, Any]) -> bool:
    limited = any(value is not None for value in quota["in_force"].values())
    return bool(limited or quota["braked_until"] or quota["breaker"] or any(quota["told"].values()))


def _why(quota: dict[str, Any]) -> str:
    if quota["breaker"]:
        return f"breaker {quota['breaker']['state']}: {quota['breaker']['reason']}"
    return f"paused until {quota['braked_until']}: {quota['why']}" if quota["braked_until"] else ""


def _why_of_key(key: dict[str, Any]) -> str:
    parts = [key["reason"]] if key["reason"] else []
    if key["next_test_at"]:
        parts.append(f"next test {key['next_test_at']}")
    said = key["last_test"]["words"] if key["last_test"] else ""
    if said and key["state"] != "active":
        parts.append(f"last test: {said}")
    elif "; " in said:
        parts.append(said.partition("; ")[2])  # the key works, its models do not
    parts += [f"{one['model']}: {one['words']}" for one in key["fixes"]]
    return "; ".join(parts)


def _limits(quota: dict[str, Any]) -> str:
    configured, learned = _figures(quota["told"], ""), _figures(quota["learned"], "")
    shown = [f"configured {configured}"] if configured else []
    shown += [f"learned {learned}"] if learned else []
    return f"{quota['model']}: {', '.join(shown)}" if shown else ""


def _figures(limits: dict[str, Any], none: str = "-") -> str:
    units = (("rpm", "rpm"), ("tpm", "tpm"), ("concurrency", "at once"))
    shown = [f"{limits[name]:,.0f} {unit}" for name, unit in units if limits[name] is not None]
    return ", ".join(shown) or none
