"""`penstock simulate`: plays a load on a virtual clock."""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
import orjson

from app.cli.failure import CommandFailure, Exit
from app.cli.profile import configuration, database_url, on_database
from app.cli.tables import new_table, print_tables
from app.diagnosis.domain.simulation import ClientProfile, Load, Rehearsed
from app.diagnosis.simulate_load import (
    LoadForecast,
    Question,
    RunningService,
    live_loads,
    look_at_live,
    only_keys,
    rehearse_load,
    usage_of,
)
from app.pacing.domain.why import named
from app.platform.domain.money import amount
from app.settings import Settings, load_settings, price_book
from app.settings.domain.routing import ConfiguredQuota, Route, Topology, account_quota
from app.settings.topology import build_topology
from app.tasks.domain.attempt import TokenUsage
from simulator.latency import parse_latency

_CLIENT = "rehearsal"


@click.command("simulate", short_help="forecast when a load finishes and what one more key would change")
@click.option(
    "--load", "loads", multiple=True, metavar="[MODEL=]TASKS", help="Tasks that arrive at once; repeatable."
)
@click.option(
    "--from-live", is_flag=True, help="Use the tasks waiting now, with learned limits and measured latencies."
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Configuration [default: the running service's, $PENSTOCK_CONFIG, ./penstock.toml].",
)
@click.option(
    "--keys",
    metavar="N|NAMES",
    help="Only these configured keys, separated by commas; or N keys, each with its own account.",
)
@click.option("--rpm", type=float, help="With --keys N: requests per minute of each.")
@click.option("--tpm", type=float, help="With --keys N: tokens per minute of each.")
@click.option("--concurrency", type=int, help="With --keys N: concurrent calls of each.")
@click.option(
    "--latency", default="lognormal:2,0.5", show_default=True, help="Latency of a call, in seconds."
)
@click.option("--tokens", default="500,500", show_default=True, help="Tokens of a prompt and of an answer.")
@click.option(
    "--refused",
    type=float,
    default=0.0,
    show_default=True,
    help="Share of calls that the upstream refuses (0 to 1).",
)
@click.option(
    "--expires-in", type=float, default=86_400.0, show_default=True, help="Seconds a task may wait."
)
@click.option("--slots", type=int, help="Concurrent calls of all workers [default: [worker] concurrency].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@on_database
def command(**asked: Any) -> None:
    """Play a load on a virtual clock with the same plan as the running service. Calls no upstream.

    Prints when the backlog would be drained, how much would be refused or expire, the cost, the bottleneck, and what
    one more key or one more account would change.

    \b
    penstock simulate --load 50000
    penstock simulate --load 50000 --keys 4 --rpm 600 --concurrency 50 --latency lognormal:2,0.5
    penstock simulate --load deepseek-flash=40000 --load deepseek-v4-pro=5000 --keys main,second
    penstock simulate --from-live
    """
    question = _question(asked)
    answer = rehearse_load(question)
    if asked["as_json"]:
        click.echo(orjson.dumps(_as_json(answer), option=orjson.OPT_INDENT_2).decode())
    else:
        _show(answer, question)


# -- the question


def _question(asked: dict[str, Any]) -> Question:
    settings = load_settings(configuration(asked["config"]), os.environ)
    count = asked["keys"] if (asked["keys"] or "").isdigit() else None
    topology = _made_up(int(count), asked) if count else _configured(settings, asked["keys"])
    live = _live(settings) if asked["from_live"] else RunningService()
    usage = _usage(asked["tokens"])
    measured = usage_of(live.calls) or usage
    latency = _latency(asked["latency"])
    loads = [_load(text, topology, settings, usage, asked["expires_in"]) for text in asked["loads"]]
    loads += live_loads(live, measured, topology)
    if not loads:
        hint = (
            "No tasks are waiting; add --load TASKS."
            if asked["from_live"]
            else "Add --load TASKS or --from-live."
        )
        raise CommandFailure("no load given", hint, Exit.USAGE)
    return Question(
        topology,
        loads,
        ClientProfile(latency.sample, latency.mean or (latency.low + latency.high) / 2, asked["refused"]),
        price_book(settings),
        settings.learning.pause,
        asked["slots"] or settings.worker.concurrency,
        time.time(),
        live,
    )


def _configured(settings: Settings, names: str | None) -> Topology:
    if not settings.models:
        raise CommandFailure(
            "no keys and models are configured",
            "Write a penstock.toml (penstock init), or give --keys N --rpm ... --concurrency ...",
            Exit.CONFIGURATION,
        )
    topology = build_topology(settings)
    if names is None:
        return topology
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in topology.keys:
            raise CommandFailure(
                f"no [[key]] {name} serves a model", f"Keys: {', '.join(topology.keys)}", Exit.USAGE
            )
    return only_keys(topology, wanted)


def _made_up(count: int, asked: dict[str, Any]) -> Topology:
    """A topology of `count` equal keys, each with its own account."""
    if count < 1 or not (asked["rpm"] or asked["tpm"] or asked["concurrency"]):
        raise CommandFailure("made-up keys need limits", "Add --rpm, --tpm or --concurrency.", Exit.USAGE)
    routes = tuple(Route(f"key-{n}", "upstream", f"key-{n}", "model") for n in range(1, count + 1))
    quotas = {
        name: ConfiguredQuota(name, asked["rpm"], asked["tpm"], asked["concurrency"])
        for name in (account_quota(route.account, "model") for route in routes)
    }
    return Topology({"model": (routes,)}, quotas)


def _live(settings: Settings) -> RunningService:
    from app.platform.database import Database

    database = Database(settings.database_url or database_url())
    try:
        return look_at_live(database)
    finally:
        database.close()


def _load(text: str, topology: Topology, settings: Settings, usage: TokenUsage, expires_in: float) -> Load:
    name, _, number = text.rpartition("=")
    model = name or (settings.default_model if settings.default_model in topology.models else "")
    model = model or next(iter(topology.models))
    if model not in topology.models:
        raise CommandFailure(f"no model {model}", f"Models: {', '.join(topology.models)}", Exit.USAGE)
    if not number.isdigit() or not 0 < int(number) <= 5_000_000:
        raise CommandFailure(
            f"--load {text}: not a number of tasks", "Write --load 50000 or --load MODEL=50000.", Exit.USAGE
        )
    estimate = float(usage.prompt_tokens + usage.completion_tokens)
    return Load(model, _CLIENT, int(number), usage, estimate, expires_in=expires_in)


def _usage(text: str) -> TokenUsage:
    try:
        prompt, completion = (int(part) for part in text.split(","))
    except ValueError:
        raise CommandFailure(
            f"--tokens {text}: not two numbers", "Write --tokens PROMPT,ANSWER.", Exit.USAGE
        ) from None
    return TokenUsage(prompt, completion)


def _latency(text: str) -> Any:
    try:
        return parse_latency(text)
    except ValueError as error:
        raise CommandFailure(f"--{error}", None, Exit.USAGE) from None


# -- the result


def _as_json(answer: LoadForecast) -> dict[str, Any]:
    return {
        "variants": [
            {
                "name": variant.name,
                "seconds": round(variant.result.seconds, 3),
                "done": variant.result.done,
                "expired": variant.result.expired,
                "stranded": variant.result.stranded,
                "calls": variant.result.calls,
                "refused": variant.result.refused,
                "costs": {name: amount(picos) for name, picos in variant.result.costs.items()},
                "unpriced_calls": variant.result.unpriced,
                "calls_by_key": dict(variant.result.by_key),
                "held_up_by": {name: round(spent, 3) for name, spent in variant.result.waits.items()},
            }
            for variant in answer.variants
        ],
        "assumed_limits": list(answer.assumed),
    }


def _show(answer: LoadForecast, question: Question) -> None:
    tasks = sum(load.tasks for load in question.loads)
    click.echo(f"{tasks:,} tasks, {len(question.topology.keys):,} keys; no upstream was called.")
    shown = new_table("", "drained in", "at", "per second", "refused", "unfinished", "cost")
    for variant in answer.variants:
        result = variant.result
        at = datetime.fromtimestamp(question.starts_at).astimezone() + timedelta(seconds=result.seconds)
        pace = result.done / result.seconds if result.seconds else 0.0
        shown.add_row(
            variant.name,
            _span(result.seconds) if not result.stranded else "never",
            f"{at:%a %H:%M}",
            f"{pace:.1f}",
            f"{result.refused:,}",
            f"{result.expired + result.stranded:,}",
            _costs(result),
        )
    print_tables(shown)
    _say_why(answer)


def _say_why(answer: LoadForecast) -> None:
    waits = answer.variants[0].result.waits
    if waits:
        worst = max(waits, key=lambda name: waits[name])
        click.echo(f"Bottleneck: {named(worst).strip()}")
    for name in answer.assumed:
        click.echo(
            f"The limits of {name} are neither configured nor learned yet: assumed 20 concurrent, 20 per second."
        )


def _costs(result: Rehearsed) -> str:
    parts = [f"{currency} {picos / 1e12:,.2f}" for currency, picos in sorted(result.costs.items())]
    return " + ".join([*parts, *(["unknown"] if result.unpriced else [])])


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
    )
