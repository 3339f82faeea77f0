"""Forecast a load: when it would be done, what it would cost, and what one more key or account would change.

1. The scenario: routes, configured limits, learned ones where known, and how calls end.
2. The load in that scenario, with one more key, and with one more account, for the key that gains most.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from statistics import fmean
from typing import Any

from sqlalchemy import Connection, func, select, text

from app.billing.domain.pricing import PriceBook
from app.diagnosis.domain.simulation import (
    ClientProfile,
    Load,
    Rehearsed,
    Scenario,
    rehearse,
    with_account,
    with_key,
)
from app.pacing.domain.estimated_limit import EstimatedLimit, resting_level
from app.pacing.domain.limit_estimator import RULES
from app.pacing.domain.rate_controller import configured_limits, tighter
from app.pacing.store.leader_state import load_learned
from app.platform.database import Database
from app.settings.domain.routing import Bucket, QuotaLimits, Route, Topology, account_quota
from app.tasks.domain.attempt import Outcome, TokenUsage
from app.tasks.store.tables import QUEUED, attempt, task
from app.upstreams.domain.refusals import Figure


@dataclass(frozen=True, slots=True)
class WaitingRows:
    """Tasks of one list that wait, for whatever reason."""

    model: str
    client_id: str
    step: int
    tasks: int
    estimate: float  # mean tokens


@dataclass(frozen=True, slots=True)
class CallRow:
    """An upstream call that ended."""

    key: str
    upstream_model: str
    outcome: str
    seconds: float
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None


def waiting_rows(conn: Connection) -> list[WaitingRows]:
    """Everything that is queued, by model, client and priority."""
    groups = (task.c.model, task.c.client_id, task.c.step)
    found = select(*groups, func.count(), func.avg(task.c.estimate)).where(text(QUEUED)).group_by(*groups)
    rows = conn.execute(found.order_by(*groups))
    return [WaitingRows(row[0], row[1], row[2], row[3], float(row[4])) for row in rows]


def latest_calls(conn: Connection, limit: int) -> list[CallRow]:
    """The newest ended calls."""
    seconds = attempt.c.finished_at - attempt.c.started_at
    columns = (attempt.c.key, attempt.c.upstream_model, attempt.c.outcome, seconds)
    tokens = (attempt.c.prompt_tokens, attempt.c.completion_tokens, attempt.c.cached_tokens)
    found = select(*columns, *tokens).order_by(attempt.c.seq.desc()).limit(limit)
    return [CallRow(*row) for row in conn.execute(found)]


CALLS_LOOKED_AT = 5_000
_SENT = frozenset(Outcome) - {Outcome.RETURNED, Outcome.CANCELLED}
_REFUSED = frozenset({Outcome.RATE_LIMITED, Outcome.OVERLOADED})


@dataclass(frozen=True, slots=True)
class RunningService:
    """What the running service shows."""

    waiting: Sequence[WaitingRows] = ()
    calls: Sequence[CallRow] = ()
    learned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be played."""

    topology: Topology
    loads: Sequence[Load]
    habit: ClientProfile  # of routes that nothing is known of
    prices: PriceBook
    pause: float = 1.0
    slots: int = 1000
    starts_at: float = 0.0
    live: RunningService = RunningService()
    settings: Mapping[str, Topology] = field(
        default_factory=dict
    )  # by name, to compare; empty: `topology` alone
    came: Callable[[str, float], object] = lambda _name, _share: (
        None
    )  # receives the name of the variant and the share done


@dataclass(frozen=True, slots=True)
class Variant:
    """One way it was played."""

    name: str
    result: Rehearsed


@dataclass(frozen=True, slots=True)
class LoadForecast:
    """The initial state. `assumed`: accounts and models whose limits are neither configured nor learned."""

    variants: Sequence[Variant]
    assumed: Sequence[str]


def look_at_live(database: Database) -> RunningService:
    """Read what waits, what calls came to lately and what was learned. Raises DatabaseUnreachable."""
    return RunningService(
        database.read(waiting_rows),
        database.read(lambda conn: latest_calls(conn, CALLS_LOOKED_AT)),
        database.read(load_learned),
    )


def rehearse_load(question: Question) -> LoadForecast:
    """Play it as it is, with one more key and with one more account; or in each of the settings to compare."""
    limits, assumed = limits_of(question.topology, question.live.learned)
    habits = _habits(question)

    def play(name: str, topology: Topology, limits: Mapping[str, QuotaLimits]) -> Variant:
        stage = Scenario(
            topology,
            limits,
            lambda route: habits.get(_as_measured(route), question.habit),
            _cost(question.prices),
            question.slots,
            starts_at=question.starts_at,
        )
        return Variant(name, rehearse(stage, question.loads, Random(1), partial(question.came, name)))

    if question.settings:
        each = question.settings.items()
        return LoadForecast([play(name, one, limits_of(one, {})[0]) for name, one in each], assumed)
    variants = [play("as it is", question.topology, limits)]
    calls = variants[0].result.by_key
    if calls:
        key = max(calls, key=lambda name: calls[name])
        account = next(route.account for route in question.topology.routes if route.key == key)
        variants += [
            play(f"one more key of {account}", *with_key(question.topology, limits, key)),
            play(f"one more account like {account}", *with_account(question.topology, limits, key)),
        ]
    return LoadForecast(variants, assumed)


def limits_of(
    topology: Topology, learned: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, QuotaLimits], list[str]]:
    """The limits of every quota that has any, and the accounts and models whose limits had to be assumed."""
    found = {
        name: limits
        for name in topology.quota_ids
        if (limits := tighter(configured_limits(topology.quotas.get(name)), _learned(learned.get(name, {}))))
        != QuotaLimits()
    }
    assumed = []
    for route in topology.routes:
        name = account_quota(route.account, route.upstream_model)
        if not any(quota in found for quota in route.quotas):
            pace = RULES["pace"].start
            found[name] = QuotaLimits(Bucket(max(1.0, pace / 10), pace), None, int(RULES["calls"].start))
            assumed.append(f"{route.account}: {route.upstream_model}")
    return found, assumed


def _learned(facts: Mapping[str, Any]) -> QuotaLimits:
    """Where learned figures rest."""
    levels: dict[Figure, float] = {}
    for name, rules in RULES.items():
        kept = facts.get("figures", {}).get(name)
        if kept is not None:
            figure = EstimatedLimit(
                float(kept["level"]), kept.get("known"), margin=float(kept.get("margin", 0.0))
            )
            levels[name] = figure.level if figure.known is None else resting_level(figure, rules)
    pace, tokens, cap = levels.get("pace"), levels.get("tokens"), levels.get("calls")
    return QuotaLimits(
        None if pace is None else Bucket(max(1.0, pace / 10), pace),
        None if tokens is None else Bucket(tokens, tokens),
        None if cap is None else max(1, int(cap)),
    )


def _habits(question: Question) -> dict[tuple[str, str], ClientProfile]:
    """What calls came to lately, by key and upstream model."""
    calls: dict[tuple[str, str], list[CallRow]] = defaultdict(list)
    for call in question.live.calls:
        if call.outcome in _SENT:
            calls[call.key, call.upstream_model].append(call)
    return {route: habit for route, rows in calls.items() if (habit := _habit(rows, question.pause))}


def _habit(rows: Sequence[CallRow], pause: float) -> ClientProfile | None:
    seconds = [row.seconds for row in rows if row.outcome == Outcome.SUCCEEDED]
    if not seconds:
        return None
    refused = sum(row.outcome in _REFUSED for row in rows) / len(rows)
    return ClientProfile(lambda chance: chance.choice(seconds), fmean(seconds), refused, pause)


def usage_of(calls: Sequence[CallRow]) -> TokenUsage | None:
    """The mean use of successful calls, where it is known."""
    known = [row for row in calls if row.prompt_tokens is not None and row.completion_tokens is not None]
    if not known:
        return None
    return TokenUsage(
        round(fmean(row.prompt_tokens or 0 for row in known)),
        round(fmean(row.completion_tokens or 0 for row in known)),
        round(fmean(row.cached_tokens or 0 for row in known)),
    )


def _as_measured(route: Route) -> tuple[str, str]:
    """An added key takes after the one that it was made from."""
    return route.key.partition("+")[0], route.upstream_model


def _cost(prices: PriceBook) -> Callable[[Route, TokenUsage, float], tuple[int, str] | None]:
    def cost(route: Route, usage: TokenUsage, at: float) -> tuple[int, str] | None:
        found = prices.cost(route.upstream, route.upstream_model, usage, at)
        return None if found is None else (found.picos, found.currency)

    return cost


def live_loads(live: RunningService, usage: TokenUsage, topology: Topology) -> list[Load]:
    """What waits now, of models that are configured."""
    return [
        Load(row.model, row.client_id, row.tasks, usage, row.estimate, row.step)
        for row in live.waiting
        if row.model in topology.models
    ]


def only_keys(topology: Topology, keys: Sequence[str]) -> Topology:
    """The same with these keys alone; models that none of them serves are gone."""
    models = {
        model: tuple(kept for tier in tiers if (kept := tuple(r for r in tier if r.key in keys)))
        for model, tiers in topology.models.items()
    }
    return replace(topology, models={model: tiers for model, tiers in models.items() if tiers})
