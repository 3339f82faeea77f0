"""Usage for the page: by day, and by client and model, per currency."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from app.billing.domain.usage import UsageFilter, day_of
from app.reporting.read_overview import ReadUsage

DAY = 86400.0
_SUMMED = (
    "tasks",
    "calls",
    "cache_hits",
    "coalesced",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "unpriced_calls",
)


@dataclass(frozen=True, slots=True)
class UsageLine:
    """A line of figures; `costs` are pico-units by currency."""

    heading: tuple[str, ...]
    figures: Mapping[str, int]
    costs: Mapping[str, int]

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens."""
        return self.figures["prompt_tokens"] + self.figures["completion_tokens"]


@dataclass(frozen=True, slots=True)
class UsagePage:
    """A range of days in UTC: total, by day, and by client and model."""

    total: UsageLine
    by_day: list[UsageLine]
    by_client_and_model: list[UsageLine]

    @property
    def most_tokens(self) -> int:
        """The maximum of a day."""
        return max((line.tokens for line in self.by_day), default=0)


def read_usage(reader: ReadUsage, client_id: str | None, days: int, now: float) -> UsagePage:
    """Read the last `days` days, including today."""
    wanted = UsageFilter(
        day_of(now - (days - 1) * DAY), day_of(now), client_id, ("day", "client_id", "model")
    )
    rows = reader.report(wanted)
    return UsagePage(
        total=_line((), rows),
        by_day=sorted(_grouped(rows, "day"), key=lambda line: line.heading, reverse=True),
        by_client_and_model=sorted(_grouped(rows, "client_id", "model"), key=lambda line: -line.tokens),
    )


def _grouped(rows: Iterable[Mapping[str, Any]], *by: str) -> list[UsageLine]:
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(str(row[name]) for name in by), []).append(row)
    return [_line(heading, found) for heading, found in groups.items()]


def _line(heading: tuple[str, ...], rows: Iterable[Mapping[str, Any]]) -> UsageLine:
    figures = dict.fromkeys(_SUMMED, 0)
    costs: dict[str, int] = {}
    for row in rows:
        for name in _SUMMED:
            figures[name] += row[name]
        if row["currency"]:
            costs[row["currency"]] = costs.get(row["currency"], 0) + row["cost"]
    return UsageLine(heading, figures, costs)
