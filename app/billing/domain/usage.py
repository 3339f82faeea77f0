"""Usage: tokens, costs and savings in entries that can be added up (per currency), and how reports show them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from app.platform.domain.money import CallCost, amount, micros
from app.tasks.domain.attempt import TokenUsage


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Which usage a report covers. Days are UTC, both ends included."""

    first_day: str
    last_day: str
    client_id: str | None = None  # None: all clients
    by: Sequence[str] = ()  # of HEADING; currencies are always kept apart


@dataclass(frozen=True, slots=True)
class Heading:
    """The dimensions of an entry. `key`, `account` and `upstream_model` are empty when no call was made."""

    day: str  # of the end, UTC, such as 2026-11-21
    client_id: str
    model: str
    key: str = ""
    account: str = ""
    upstream_model: str = ""
    currency: str = ""  # empty: no known price


@dataclass(frozen=True, slots=True)
class UsageFigures:
    """The sums of an entry. Money in pico-units of the heading's currency."""

    tasks: int = 0  # succeeded
    calls: int = 0  # upstream calls made, whatever their outcome
    cache_hits: int = 0  # tasks answered from the cache
    coalesced: int = 0  # tasks answered by the call of another
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0  # of the prompts, in the upstream's own cache
    reasoning_tokens: int = 0  # of the answers
    unpriced_calls: int = 0  # used tokens at an unknown price
    cost: int = 0
    saved_cache: int = 0
    saved_coalescing: int = 0
    saved_prompt_cache: int = 0
    saved_off_peak: int = 0

    def __add__(self, other: UsageFigures) -> UsageFigures:
        return UsageFigures(*(getattr(self, name) + getattr(other, name) for name in FIGURES))


FIGURES = tuple(item.name for item in fields(UsageFigures))


@dataclass(frozen=True, slots=True)
class UsageEntry:
    """Figures under a heading."""

    heading: Heading
    figures: UsageFigures


def day_of(at: float) -> str:
    """The UTC day of an instant (Unix seconds), as 2026-11-21."""
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def call_figures(usage: TokenUsage | None, cost: CallCost | None, *, succeeded: bool) -> UsageFigures:
    """The sums of one upstream call."""
    used = usage or TokenUsage(0, 0)
    return UsageFigures(
        tasks=int(succeeded),
        calls=1,
        prompt_tokens=used.prompt_tokens,
        completion_tokens=used.completion_tokens,
        cached_tokens=used.cached_tokens,
        reasoning_tokens=used.reasoning_tokens,
        unpriced_calls=int(usage is not None and cost is None),
        cost=cost.picos if cost else 0,
        saved_prompt_cache=cost.prompt_cache_saved if cost else 0,
        saved_off_peak=cost.off_peak_saved if cost else 0,
    )


def merge(entries: Iterable[UsageEntry]) -> list[UsageEntry]:
    """Add up entries with the same heading; in order of first appearance."""
    sums: dict[Heading, UsageFigures] = {}
    for entry in entries:
        before = sums.get(entry.heading)
        sums[entry.heading] = entry.figures if before is None else before + entry.figures
    return [UsageEntry(heading, figures) for heading, figures in sums.items()]


def as_columns(entry: UsageEntry) -> dict[str, Any]:
    """An entry as one flat row."""
    return {
        **{item.name: getattr(entry.heading, item.name) for item in fields(Heading)},
        **{name: getattr(entry.figures, name) for name in FIGURES},
    }


def from_columns(row: Mapping[str, Any]) -> UsageEntry:
    """The entry in a flat row."""
    heading = Heading(**{item.name: row[item.name] for item in fields(Heading)})
    return UsageEntry(heading, UsageFigures(**{name: int(row[name]) for name in FIGURES}))


# What a report may be grouped by, and its column.
BY = {
    "day": "day",
    "client": "client_id",
    "model": "model",
    "key": "key",
    "account": "account",
    "upstream_model": "upstream_model",
}
_COUNTS = (
    "tasks",
    "calls",
    "cache_hits",
    "coalesced",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "unpriced_calls",
)
NEWEST_CALLS = 20_000  # of which response times are taken
# Response times of successful upstream calls.
TIMES = ("response_p50_seconds", "response_p90_seconds", "response_p99_seconds")
_SAVINGS = ("saved_cache", "saved_coalescing", "saved_prompt_cache", "saved_off_peak")


def fold_free(rows: Iterable[Mapping[str, Any]], by: Sequence[str]) -> list[dict[str, Any]]:
    """Add what cost nothing, such as refused calls, to the row with a currency of the same group, if there is one.

    `rows` as reported: groups `by` (columns) and currency. What was used at an unknown price stays apart.
    """
    folded = [dict(row) for row in rows]
    priced = {tuple(row[name] for name in by): row for row in reversed(folded) if row["currency"]}
    kept = []
    for row in folded:
        own = priced.get(tuple(row[name] for name in by))
        if own is None or row["currency"] or row["unpriced_calls"] or row["cost"]:
            kept.append(row)
            continue
        for name in FIGURES:
            own[name] += row[name]
    return kept


def usage_row(
    row: Mapping[str, Any], by: Sequence[str], times: Sequence[float] | None = None
) -> dict[str, Any]:
    """One row of a report; `times` as TIMES. Without a known price, money is null, not 0."""
    currency = row["currency"] or None
    return {
        **{name: row[BY[name]] for name in by},
        **{name: row[name] for name in _COUNTS},
        "currency": currency,
        "cost_micros": micros(row["cost"]) if currency else None,
        "cost": amount(row["cost"]) if currency else None,
        **{name: amount(row[name]) if currency else None for name in _SAVINGS},
        **(dict(zip(TIMES, times, strict=True)) if times else dict.fromkeys(TIMES)),
    }


def as_csv(rows: Sequence[Mapping[str, Any]], by: Sequence[str]) -> str:
    """The same rows as CSV with a header; null is empty. Text that a spreadsheet would run as a formula is escaped."""
    columns = (*by, *_COUNTS, "currency", "cost_micros", "cost", *_SAVINGS, *TIMES)
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[name]) for name in columns] for row in rows)
    return written.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
