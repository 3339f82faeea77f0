"""The ledger: what reached the simulator and its outcome. Tests judge callers by it.

For every tally, at every instant:
    received = rejected + refused + admitted
    admitted = in_flight + the sum of outcomes
and the tallies of all keys (accounts, models) add up to the totals, but for what names none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from simulator.answers import AnswerUsage
from simulator.limits import SimulatedCaller
from simulator.peaks import SlidingPeak
from simulator.prices import micro_usd


class Tally:
    """The calls of one key, account, model or in total."""

    __slots__ = (
        "admitted",
        "bill_pico_usd",
        "cached_tokens",
        "client_gone",
        "completion_tokens",
        "in_flight",
        "max_in_flight",
        "outcomes",
        "prompt_tokens",
        "reasoning_tokens",
        "received",
        "refused",
        "rejected",
        "succeeded",
        "unpriced",
    )

    def __init__(self) -> None:
        """Nothing yet."""
        self.received = self.admitted = self.succeeded = self.client_gone = 0
        self.in_flight = self.max_in_flight = 0
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = self.reasoning_tokens = 0
        self.bill_pico_usd = self.unpriced = 0
        self.refused: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()

    def enter(self) -> None:
        """A call was admitted."""
        self.admitted += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def leave(self, end: Ending) -> None:
        """A call ended."""
        self.in_flight -= 1
        self.outcomes[end.outcome] += 1
        self.succeeded += end.good
        self.client_gone += end.client_gone
        if end.usage is not None:
            self.prompt_tokens += end.usage.prompt_tokens
            self.cached_tokens += end.usage.hit_tokens
            self.completion_tokens += end.usage.completion_tokens
            self.reasoning_tokens += end.usage.reasoning_tokens
            self.bill_pico_usd += end.cost_pico_usd or 0
            self.unpriced += end.cost_pico_usd is None

    def as_json(self) -> dict[str, Any]:
        """Every figure under its name."""
        return {
            "received": self.received,
            "admitted": self.admitted,
            "refused": dict(self.refused),
            "rejected": dict(self.rejected),
            "outcomes": dict(self.outcomes),
            "succeeded": self.succeeded,
            "client_gone": self.client_gone,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "reasoning_tokens": self.reasoning_tokens,
            "bill_micro_usd": micro_usd(self.bill_pico_usd),
            "bill_pico_usd": self.bill_pico_usd,
            "unpriced": self.unpriced,
        }


@dataclass(frozen=True, slots=True)
class Ending:
    """How an admitted call ended. `usage` is None if there was no answer, and nothing is billed then;
    `cost_pico_usd` is None when the model has no price."""

    outcome: str
    good: bool
    client_gone: bool
    usage: AnswerUsage | None
    cost_pico_usd: int | None


class QuotaRecord:
    """The peak load of one quota: sends, admissions and tokens in any window, concurrent calls."""

    __slots__ = (
        "admitted_1s",
        "admitted_60s",
        "in_flight",
        "max_in_flight",
        "received_1s",
        "received_60s",
        "tokens_60s",
    )

    def __init__(self) -> None:
        """Nothing yet."""
        self.received_60s, self.received_1s = SlidingPeak(60), SlidingPeak(1)
        self.admitted_60s, self.admitted_1s = SlidingPeak(60), SlidingPeak(1)
        self.tokens_60s = SlidingPeak(60)
        self.in_flight = self.max_in_flight = 0

    def receive(self, at: float) -> None:
        """A call was sent to this quota, admitted or not."""
        self.received_60s.add(at)
        self.received_1s.add(at)

    def enter(self, at: float, tokens: int) -> None:
        """A call was admitted."""
        self.admitted_60s.add(at)
        self.admitted_1s.add(at)
        self.tokens_60s.add(at, tokens)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def as_json(self) -> dict[str, int]:
        """Every figure under its name."""
        return {
            "max_received_60s": self.received_60s.peak,
            "max_received_1s": self.received_1s.peak,
            "max_admitted_60s": self.admitted_60s.peak,
            "max_admitted_1s": self.admitted_1s.peak,
            "max_tokens_60s": self.tokens_60s.peak,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
        }


class Ledger:
    """Tallies per key, account and model; records per quota (key or account, with a model or `*`)."""

    def __init__(self) -> None:
        """An empty ledger."""
        self.totals = Tally()
        self.unread = 0  # calls with incomplete bodies
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._quotas: dict[tuple[str, str, str], QuotaRecord] = {}
        self._shares: dict[SimulatedCaller, tuple[list[Tally], list[QuotaRecord]]] = {}

    def reject(self, at: float, reason: str, key: str = "", account: str = "", model: str = "") -> None:
        """Record a call that was refused for reasons other than limits."""
        tallies, quotas = self._share(SimulatedCaller(key, account, model))
        for tally in tallies:
            tally.received += 1
            tally.rejected[reason] += 1
        for quota in quotas:
            quota.receive(at)

    def refuse(self, at: float, caller: SimulatedCaller, reason: str) -> None:
        """Record a call above a limit."""
        tallies, quotas = self._share(caller)
        for tally in tallies:
            tally.received += 1
            tally.refused[reason] += 1
        for quota in quotas:
            quota.receive(at)

    def admit(self, at: float, caller: SimulatedCaller, tokens: int) -> None:
        """Record an admitted call and its tokens."""
        tallies, quotas = self._share(caller)
        for tally in tallies:
            tally.received += 1
            tally.enter()
        for quota in quotas:
            quota.receive(at)
            quota.enter(at, tokens)

    def end(self, caller: SimulatedCaller, ending: Ending) -> None:
        """An admitted call is over."""
        tallies, quotas = self._share(caller)
        for tally in tallies:
            tally.leave(ending)
        for quota in quotas:
            quota.in_flight -= 1

    def as_json(self) -> dict[str, Any]:
        """Totals, then every tally and quota by name."""
        kinds: dict[str, dict[str, Any]] = {"key": {}, "account": {}, "model": {}}
        for (kind, name), tally in self._tallies.items():
            kinds[kind][name] = tally.as_json()
        return {
            "totals": {**self.totals.as_json(), "unread": self.unread},
            "keys": kinds["key"],
            "accounts": kinds["account"],
            "models": kinds["model"],
            "quotas": [
                {kind: name, "model": model, **record.as_json()}
                for (kind, name, model), record in self._quotas.items()
            ],
        }

    def _share(self, caller: SimulatedCaller) -> tuple[list[Tally], list[QuotaRecord]]:
        """The tallies that count this caller's calls."""
        share = self._shares.get(caller)
        if share is None:
            share = self._shares[caller] = (
                [self.totals, *(self._tally(*at) for at in _names(caller))],
                [self._quota(*at) for at in _quota_names(caller)],
            )
        return share

    def _tally(self, kind: str, name: str) -> Tally:
        return self._tallies.setdefault((kind, name), Tally())

    def _quota(self, kind: str, name: str, model: str) -> QuotaRecord:
        return self._quotas.setdefault((kind, name, model), QuotaRecord())


def _names(caller: SimulatedCaller) -> Iterable[tuple[str, str]]:
    named = (("key", caller.key), ("account", caller.account), ("model", caller.model))
    return ((kind, name) for kind, name in named if name)


def _quota_names(caller: SimulatedCaller) -> Iterable[tuple[str, str, str]]:
    owners = [(kind, name) for kind, name in (("key", caller.key), ("account", caller.account)) if name]
    models = ["*", caller.model] if caller.model else ["*"]
    return ((kind, name, model) for kind, name in owners for model in models)
