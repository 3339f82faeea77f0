"""`penstock simulate`: plays a load on a virtual clock."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from app.billing.domain.pricing import Price, PriceBook, Rates
from app.cli.failure import CommandFailure, Exit
from app.cli.profile import configuration, database_url, on_database
from app.cli.tables import new_table, print_tables
from app.diagnosis.domain.percentiles import Percentiles
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
@click.option("--arrive", type=float, metavar="RATE", help="Tasks of --load arrive at random, RATE a second.")
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
@click.option(
    "--concurrency", metavar="N[,N...]", help="With --keys N: concurrent calls of each; several are compared."
)
@click.option(
    "--price",
    metavar="IN,OUT",
    help="With --keys N: USD per million tokens [default: the default model's price].",
)
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

    Prints when the backlog would be drained, how long tasks wait and answers take (P50, P99), how much would be refused
    or expire, the cost, the limit that holds it back, and what one more key or account would change. Of more than
    5,000 tasks a part is played that stands for all.

    \b
    penstock simulate --load 50000
    penstock simulate --load 50000 --keys 4 --rpm 600 --concurrency 50 --latency lognormal:2,0.5
    penstock simulate --load 5000 --arrive 8 --keys 2 --rpm 600 --concurrency 5,20,50
    penstock simulate --load deepseek-flash=40000 --load deepseek-v4-pro=5000 --keys main,second
    penstock simulate --from-live
    """
    question = _question(asked)
    with _progress() as came:
        answer = rehearse_load(replace(question, came=came))
    if asked["as_json"]:
        click.echo(orjson.dumps(_as_json(answer), option=orjson.OPT_INDENT_2).decode())
    else:
        _show(answer, question)


_SILENT = 5.0  # seconds between two lines where there is no terminal


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """A bar on standard error; without a terminal, a line now and then."""
    console = Console(stderr=True)
    bars: dict[str, TaskID] = {}
    said_at = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:

        def came(name: str, share: float) -> None:
            nonlocal said_at
            if name not in bars:
                bars[name] = progress.add_task(f"playing: {name}", total=1.0)
            progress.update(bars[name], completed=share)
            if not console.is_terminal and time.monotonic() - said_at > _SILENT:
                said_at = time.monotonic()
                click.echo(f"playing: {name}, {share:.0%}", err=True)

        yield came


# -- the question


def _question(asked: dict[str, Any]) -> Question:
    settings = load_settings(configuration(asked["config"]), os.environ)
    count = asked["keys"] if (asked["keys"] or "").isdigit() else None
    settings_compared = _compared(int(count), asked) if count else {}
    topology = next(iter(settings_compared.values()), None) or _configured(settings, asked["keys"])
    live = _live(settings) if asked["from_live"] else RunningService()
    usage = _usage(asked["tokens"])
    measured = usage_of(live.calls) or usage
    latency = _latency(asked["latency"])
    loads = [_load(text, topology, settings, usage, asked) for text in asked["loads"]]
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
        _prices(settings, asked["price"]) if count else price_book(settings),
        settings.learning.pause,
        asked["slots"] or settings.worker.concurrency,
        time.time(),
        live,
        settings_compared if len(settings_compared) > 1 else {},
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


def _compared(count: int, asked: dict[str, Any]) -> dict[str, Topology]:
    """Topologies of `count` equal keys, each with its own account, by the concurrency of each key."""
    try:
        several = [int(part) if part else None for part in (asked["concurrency"] or "").split(",")]
    except ValueError:
        several = [0]
    if any(one is not None and one < 1 for one in several):
        hint = "Write --concurrency 20 or --concurrency 5,20,50."
        raise CommandFailure(f"--concurrency {asked['concurrency']}: not numbers", hint, Exit.USAGE)
    if count < 1 or not (asked["rpm"] or asked["tpm"] or several != [None]):
        raise CommandFailure("made-up keys need limits", "Add --rpm, --tpm or --concurrency.", Exit.USAGE)
    return {f"concurrency {one}": _made_up(count, asked, one) for one in several}


def _made_up(count: int, asked: dict[str, Any], concurrency: int | None) -> Topology:
    routes = tuple(Route(f"key-{n}", "upstream", f"key-{n}", "model") for n in range(1, count + 1))
    quotas = {
        name: ConfiguredQuota(name, asked["rpm"], asked["tpm"], concurrency)
        for name in (account_quota(route.account, "model") for route in routes)
    }
    return Topology({"model": (routes,)}, quotas)


def _prices(settings: Settings, text: str | None) -> PriceBook:
    """The price of a made-up model: the given one, else that of the default model at its first key."""
    if text is not None:
        try:
            miss, output = (round(float(part) * 1_000_000) for part in text.split(","))
        except ValueError:
            hint = "Write --price 0.28,0.42: USD per million tokens of prompts and of answers."
            raise CommandFailure(f"--price {text}: not two numbers", hint, Exit.USAGE) from None
        return PriceBook.of([("upstream", "model", Price(0.0, "USD", Rates(miss, miss, output, output)))])
    book = price_book(settings)
    tiers = build_topology(settings).models.get(settings.default_model or "", ())
    route = next((route for tier in tiers for route in tier), None)
    known = book.prices.get((route.upstream, route.upstream_model), ()) if route else ()
    return PriceBook.of([("upstream", "model", price) for price in known], book.calendars)


def _live(settings: Settings) -> RunningService:
    from app.platform.database import Database

    database = Database(settings.database_url or database_url())
    try:
        return look_at_live(database)
    finally:
        database.close()


def _load(
    text: str, topology: Topology, settings: Settings, usage: TokenUsage, asked: dict[str, Any]
) -> Load:
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
    rate = asked["arrive"] or 0.0
    if rate < 0:
        raise CommandFailure("--arrive must be above 0", "Write --arrive 8 for 8 a second.", Exit.USAGE)
    return Load(model, _CLIENT, int(number), usage, estimate, expires_in=asked["expires_in"], rate=rate)


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
                "held_up_by_limit": [
                    {"by": name, "limit": figure or None, "seconds": round(spent, 3)}
                    for (name, figure), spent in sorted(
                        variant.result.figures.items(), key=lambda one: -one[1]
                    )
                ],
                "wait_seconds": _rounded(variant.result.waited),
                "response_seconds": _rounded(variant.result.responded),
                "played_tasks": variant.result.played,
            }
            for variant in answer.variants
        ],
        "assumed_limits": list(answer.assumed),
    }


def _show(answer: LoadForecast, question: Question) -> None:
    tasks = sum(load.tasks for load in question.loads)
    click.echo(f"{tasks:,} tasks, {len(question.topology.keys):,} keys; no upstream was called.")
    heads = ("wait P50", "P99", "response P50", "P99", "held back by", "refused", "unfinished", "cost")
    shown = new_table("", "drained in", "at", "per second", *heads)
    for variant in answer.variants:
        result = variant.result
        at = datetime.fromtimestamp(question.starts_at).astimezone() + timedelta(seconds=result.seconds)
        pace = result.done / result.seconds if result.seconds else 0.0
        shown.add_row(
            variant.name,
            _span(result.seconds) if not result.stranded else "never",
            f"{at:%a %H:%M}",
            f"{pace:.1f}",
            *(
                _span(value)
                for spread in (result.waited, result.responded)
                for value in (spread.p50, spread.p99)
            ),
            _held_by(result) or "nothing",
            f"{result.refused:,}",
            f"{result.expired + result.stranded:,}",
            _costs(result),
        )
    print_tables(shown)
    _say_why(answer, tasks)


def _held_by(result: Rehearsed) -> str:
    """The limit that let nothing through for longest: whose, and which figure."""
    if not result.figures:
        return ""
    name, figure = max(result.figures, key=lambda one: result.figures[one])
    return f"{figure} of {named(name).strip()}" if figure else named(name).strip()


def _say_why(answer: LoadForecast, tasks: int) -> None:
    first = answer.variants[0].result
    if held := _held_by(first):
        click.echo(f"Bottleneck: {held}")
    if first.played < tasks:
        click.echo(f"{first.played:,} of {tasks:,} tasks were played, and stand for all.")
    for name in answer.assumed:
        click.echo(
            f"The limits of {name} are neither configured nor learned yet: assumed 20 concurrent, 20 per second."
        )


def _rounded(found: Percentiles) -> dict[str, float]:
    return {name: round(value, 3) for name, value in found._asdict().items()}


def _costs(result: Rehearsed) -> str:
    parts = [f"{currency} {picos / 1e12:,.2f}" for currency, picos in sorted(result.costs.items())]
    return " + ".join([*parts, *(["unknown"] if result.unpriced else [])])


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
    )
