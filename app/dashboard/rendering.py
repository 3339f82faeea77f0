"""Template filters, and an overview rendered to the HTML of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment

from app.platform.domain.money import NO_SUM, PICOS_PER_UNIT
from app.reporting.domain.alerts import Alert, sentence
from app.reporting.domain.dashboard_view import by_reason
from app.reporting.domain.recent_calls import Second, per_second
from app.reporting.read_overview import Overview
from app.settings.domain.alert_rules import RULES
from app.tasks.domain.rows import BatchRow
from app.tasks.domain.task import may_run_again

_REASONS = {
    "expired": "deadline passed",
    "worker_lost": "worker lost three times",
    "upstream_unavailable": "upstream unavailable",
    "upstream_timeout": "upstream timed out",
    "upstream_malformed": "malformed answer",
    "invalid_request": "request refused",
    "content_filter": "content refused",
    "context_length_exceeded": "context too long",
    "response_too_large": "answer too large",
    "model_not_found": "model unknown upstream",
}


def number(value: float | None) -> str:
    """1234567 as 1,234,567; None as unknown."""
    if value is None:
        return "unknown"
    return f"{value:,.0f}"


def pace(value: float) -> str:
    """A rate: 0, 0.3, 12.5, 140."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}"


def duration(seconds: float | None) -> str:
    """A length of time in at most two units: 40 ms, 3.2 s, 4 min 10 s, 2 h 5 min, 3 d 4 h."""
    if seconds is None:
        return "unknown"
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    for name, size, below, part in (("min", 60, "s", 1), ("h", 3600, "min", 60), ("d", 86400, "h", 3600)):
        if whole < size * (60 if name == "min" else 24) or name == "d":
            rest = whole % size // part
            return f"{whole // size} {name} {rest} {below}" if rest else f"{whole // size} {name}"
    raise AssertionError


def about(seconds: float) -> str:
    """An approximate length of time in one unit: 40 s, 57 min, 3 h, 2 d."""
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{max(1, seconds):.0f} s"


def instant(at: float | None) -> str:
    """An instant in UTC: 2026-11-21 06:01:02."""
    return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def clock_time(at: float | None) -> str:
    """The time of day in UTC, with milliseconds."""
    return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S.%f")[:-3]


def stamp(at: float | None) -> str:
    """For <time datetime=...>."""
    return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def reason(code: str) -> str:
    """Describe an error code."""
    return _REASONS.get(code, code.replace("_", " "))


def money(picos: int, currency: str) -> str:
    """An amount, rounded to at most six decimals."""
    if not currency or currency == NO_SUM:
        return "unknown"
    whole = picos / PICOS_PER_UNIT
    digits = 2 if abs(whole) >= 100 else 4 if abs(whole) >= 1 else 6
    return f"{whole:,.{digits}f} {currency}"


def short(object_id: str) -> str:
    """An id shortened to its kind and last eight characters."""
    kind, _, rest = object_id.partition("_")
    return f"{kind}_…{rest[-8:]}" if len(rest) > 10 else object_id


def percent(share: float) -> str:
    """0.034 as 3.4; for widths."""
    return f"{100 * share:.2f}".rstrip("0").rstrip(".")


FILTERS: dict[str, Any] = {
    "number": number,
    "pace": pace,
    "duration": duration,
    "about": about,
    "instant": instant,
    "clock_time": clock_time,
    "stamp": stamp,
    "reason": reason,
    "money": money,
    "short": short,
    "percent": percent,
}


PARTS = (
    "state",
    "alerts",
    "figures",
    "chart",
    "waiting",
    "quotas",
    "batches",
    "failures",
    "letters",
    "latest",
)
_RULES = {rule.name: rule for rule in RULES}
_BATCHES = 12
_GROUPS = 12
CHART_HEIGHT = 100.0


@dataclass(frozen=True, slots=True)
class Chart:
    """SVG paths of stacked bars, one unit wide and up to 100 high: done, refused, failed."""

    peak: int
    done: str
    refused: str
    failed: str
    length: int


def render_parts(
    templates: Environment, overview: Overview, flower_url: str, runbook: str = ""
) -> dict[str, str]:
    """Render each part. `runbook`: the URL that explains alerts, if any."""
    context = {**_context(overview, flower_url), "runbook": runbook}
    return {name: templates.get_template(f"parts/{name}.html").render(context) for name in PARTS}


def _context(overview: Overview, flower_url: str) -> dict[str, Any]:
    waiting = sum(line.total for line in overview.waiting) + sum(overview.later.values())
    return {
        "o": overview,
        "flower_url": flower_url,
        "sentence": _sentence,
        "administers": overview.client_id is None,
        "waiting": waiting,
        "bounded": any(line.counted_up for line in overview.waiting),
        "pace": per_second(overview.seconds),
        "chart": chart(overview.seconds),
        "batches": sorted(overview.own.batches, key=_active_first)[:_BATCHES],
        "groups": by_reason(overview.own.failures)[:_GROUPS],
        "may_run_again": may_run_again,
        "flights": _flights(overview),
    }


def _sentence(alert: Alert) -> str:
    rule = _RULES.get(alert.rule)
    return sentence(alert, rule) if rule else alert.rule


def _active_first(row: BatchRow) -> tuple[bool, int]:
    return row.status.ended, -row.seq


def _flights(overview: Overview) -> dict[tuple[str, str], int]:
    """Calls in flight by model and client."""
    found: dict[tuple[str, str], int] = {}
    for group in overview.running:
        found[group.model, group.client_id] = found.get((group.model, group.client_id), 0) + group.calls
    return found


def chart(seconds: Sequence[Second]) -> Chart:
    """Stack the calls that ended in each second."""
    peak = max([1, *(s.done + s.refused + s.failed for s in seconds)])
    paths: dict[str, list[str]] = {"done": [], "refused": [], "failed": []}
    for x, second in enumerate(seconds):
        level = 0
        for name, path in paths.items():
            count = getattr(second, name)
            if count:
                top = CHART_HEIGHT * (1 - (level + count) / peak)
                path.append(f"M{x} {top:.1f}h.8v{CHART_HEIGHT * count / peak:.1f}h-.8z")
                level += count
    done, refused, failed = ("".join(path) for path in paths.values())
    return Chart(peak, done, refused, failed, len(seconds))
