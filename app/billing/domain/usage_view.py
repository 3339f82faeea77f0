"""Usage as the world sees it: flat rows, money exact and rounded, each currency by itself."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from app.platform.domain.money import amount, micros

# What a report may be divided by, and the column that is.
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
_SAVINGS = ("saved_cache", "saved_coalescing", "saved_prompt_cache", "saved_off_peak")


def usage_row(row: Mapping[str, Any], by: Sequence[str]) -> dict[str, Any]:
    """One row of the ledger's report. Where nothing has a known price, money is null, not 0."""
    currency = row["currency"] or None
    return {
        **{name: row[BY[name]] for name in by},
        **{name: row[name] for name in _COUNTS},
        "currency": currency,
        "cost_micros": micros(row["cost"]) if currency else None,
        "cost": amount(row["cost"]) if currency else None,
        **{name: amount(row[name]) if currency else None for name in _SAVINGS},
    }


def as_csv(rows: Sequence[Mapping[str, Any]], by: Sequence[str]) -> str:
    """The same rows as CSV with a heading; what is null is empty. Texts that a spreadsheet would run are disarmed."""
    columns = (*by, *_COUNTS, "currency", "cost_micros", "cost", *_SAVINGS)
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[name]) for name in columns] for row in rows)
    return written.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
