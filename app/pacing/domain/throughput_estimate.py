"""How fast a line should move by the limits in force, before anything has been seen of its pace.

An upper bound that ignores what nobody can know: that calls fail, and that other lines come and go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.pacing.domain.fairness import PRIORITY_WEIGHTS, ClientShare
from app.pacing.domain.waiting import WaitingList
from app.settings.domain.routing import QuotaState, Route, Topology

List = tuple[str, int]  # queue and step
Speeds = Mapping[tuple[str, str], float]  # by key and upstream model: seconds a call

_NO_LIMIT = float("inf")


def expected_paces(
    waiting: Sequence[WaitingList],
    topology: Topology,
    quotas: Mapping[str, QuotaState],
    clients: Mapping[str, ClientShare],
    speeds: Speeds,
) -> dict[List, float]:
    """Releases a second of each list, where limits say something.

    What binds a route is shared by the models that wait, a model's pace by its clients' weights, a client's by its
    priorities' (16:4:1).
    """
    by_model: dict[str, list[WaitingList]] = {}
    for one in waiting:
        by_model.setdefault(one.model, []).append(one)
    binding = {model: _binding(model, lists, topology, quotas, speeds) for model, lists in by_model.items()}
    found: dict[List, float] = {}
    for model, lists in by_model.items():
        pace = sum(rate / _sharers(name, binding) for name, rate in binding[model].items())
        if 0 < pace < _NO_LIMIT:
            found |= {key: pace * part for key, part in _parts(lists, clients).items()}
    return found


def capacities(topology: Topology, quotas: Mapping[str, QuotaState], speeds: Speeds) -> dict[str, float]:
    """Releases a second of each model if nothing else ran, tokens aside; left out where nothing limits them."""
    found = {}
    for model in topology.models:
        pace = sum(_binding(model, (), topology, quotas, speeds).values())
        if 0 < pace < _NO_LIMIT:
            found[model] = pace
    return found


def _binding(
    model: str,
    lists: Sequence[WaitingList],
    topology: Topology,
    quotas: Mapping[str, QuotaState],
    speeds: Speeds,
) -> dict[str, float]:
    """The quota that binds each of a model's routes, with its calls a second; routes behind one count once."""
    heads = [head.estimate for one in lists for head in one.heads]
    tokens = max(1.0, sum(heads) / len(heads)) if heads else 1.0
    found: dict[str, float] = {}
    for tier in topology.models.get(model, ()):
        for route in tier:
            seconds = max(0.001, speeds.get((route.key, route.upstream_model), 1.0))
            rate, name = min(_rates(route, quotas, tokens, seconds))
            found[name] = max(found.get(name, 0.0), rate)
    return found


def _rates(
    route: Route, quotas: Mapping[str, QuotaState], tokens: float, seconds: float
) -> list[tuple[float, str]]:
    return [(rate_of(quotas.get(name, QuotaState()), tokens, seconds), name) for name in route.quotas]


def rate_of(state: QuotaState, tokens: float, seconds: float) -> float:
    """Calls a second that a quota lets through, each of so many tokens and seconds; infinite without a limit."""
    rates = [_NO_LIMIT]
    if state.requests is not None:
        rates.append(state.requests.rate)
    if state.tokens is not None:
        rates.append(state.tokens.rate / tokens)
    if state.cap is not None:
        rates.append(state.cap / seconds)
    return min(rates)


def _sharers(name: str, binding: Mapping[str, Mapping[str, float]]) -> int:
    return max(1, sum(name in names for names in binding.values()))


def _parts(lists: Sequence[WaitingList], clients: Mapping[str, ClientShare]) -> dict[List, float]:
    """Each list's part of its model's pace."""
    weights: dict[str, float] = {}
    steps: dict[str, float] = {}
    for one in lists:
        share = clients.get(one.client, ClientShare()).weight_at(one.step)
        weights[one.client] = max(weights.get(one.client, 0.0), share)
        steps[one.client] = steps.get(one.client, 0.0) + PRIORITY_WEIGHTS[one.step]
    total = sum(weights.values())
    return {
        (one.queue, one.step): weights[one.client] / total * PRIORITY_WEIGHTS[one.step] / steps[one.client]
        for one in lists
        if total > 0
    }
