"""The demo's figures and its final table. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from rich.table import Table

from app.diagnosis.domain.percentiles import percentile
from app.settings import Settings

FLOWER_SECONDS = 15.0  # a run this long must show a backlog in Flower


@dataclass(slots=True)
class DemoFigures:
    """The figures of one run. Times are in seconds."""

    tasks: int
    succeeded: int = 0
    failed: int = 0
    seconds: float = 0.0  # from the first submission to the last end
    ideal_seconds: float | None = None  # None: no configured limits
    refusals: int | None = None  # 429s counted by the simulator; None: not counted
    callbacks_due: int = 0
    callbacks_verified: int = 0
    callbacks_bad: int = 0  # received with an invalid signature
    backlog_peak: int = 0  # the largest backlog that Flower showed
    waits: list[float] = field(default_factory=list)  # from submission to end, per task

    @property
    def problems(self) -> list[str]:
        """The problems of this run; empty if there were none."""
        found = {
            f"{self.tasks - self.succeeded} of {self.tasks} tasks did not succeed": self.succeeded
            < self.tasks,
            f"{self.callbacks_due - self.callbacks_verified} callbacks did not arrive": (
                self.callbacks_verified < self.callbacks_due
            ),
            f"{self.callbacks_bad} callbacks had an invalid signature": self.callbacks_bad > 0,
            f"the upstream refused {self.refusals} calls": bool(self.refusals),
            "Flower showed no backlog": self.backlog_peak == 0 and self.seconds > FLOWER_SECONDS,
        }
        return [text for text, wrong in found.items() if wrong]


def ideal_seconds(count: int, limits: Iterable[tuple[float, float]], latency_seconds: float) -> float | None:
    """The shortest possible time for `count` calls. `limits`: (burst, calls per second) of quotas that add up. The
    last call still takes its latency. None without limits."""
    known = list(limits)
    rate = sum(per_second for _, per_second in known)
    if rate == 0:
        return None
    waiting = max(0.0, count - sum(burst for burst, _ in known))
    return waiting / rate + latency_seconds


def limits_of(settings: Settings, latency_seconds: float) -> list[tuple[float, float]]:
    """Each quota's (burst, calls per second), by its rate or concurrency, whichever is lower."""
    found = []
    for quota in settings.quotas:
        rate = (quota.rpm or math.inf) / 60
        burst = quota.burst or max(1.0, rate)
        if quota.concurrency is not None and latency_seconds > 0:
            rate = min(rate, quota.concurrency / latency_seconds)
            burst = min(burst, quota.concurrency)
        if math.isfinite(rate):
            found.append((burst, rate))
    return found


def table(figures: DemoFigures) -> Table:
    """The final table."""
    shown = Table(title="Penstock demo", show_header=False, title_style="bold", min_width=44)
    shown.add_column(justify="left")
    shown.add_column(justify="right")
    for name, value in rows(figures):
        shown.add_row(name, value)
    return shown


def rows(figures: DemoFigures) -> list[tuple[str, str]]:
    """The table's rows."""
    ideal = "unknown" if figures.ideal_seconds is None else f"{figures.ideal_seconds:.1f}"
    refusals = "not counted" if figures.refusals is None else str(figures.refusals)
    return [
        ("tasks succeeded", f"{figures.succeeded} of {figures.tasks}"),
        ("seconds", f"{figures.seconds:.1f}"),
        ("minimum seconds by the configured limits", ideal),
        ("429s received", refusals),
        ("callbacks verified", f"{figures.callbacks_verified} of {figures.callbacks_due}"),
        ("largest backlog shown by Flower", str(figures.backlog_peak)),
        ("seconds from submission to end, p50", f"{percentile(figures.waits, 0.5):.1f}"),
        ("seconds from submission to end, p95", f"{percentile(figures.waits, 0.95):.1f}"),
    ]
