"""From an overview to the HTML of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment

from app.reporting.domain.alerts import Alert, sentence
from app.reporting.domain.dashboard_view import by_reason
from app.reporting.domain.pace import Second, per_second
from app.reporting.read_overview import Overview
from app.settings.domain.alert_rules import RULES
from app.tasks.domain.task import may_run_again
from app.tasks.store.batches import BatchRow

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
    """Paths of bars, one unit wide and a hundred high: done below, refused and failed above it."""

    peak: int
    done: str
    refused: str
    failed: str
    length: int


def render_parts(
    templates: Environment, overview: Overview, flower_url: str, runbook: str = ""
) -> dict[str, str]:
    """Render each part by itself. `runbook`: the address that alerts are explained at, if it is one to open."""
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
    """Stack what ended in each second."""
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
