"""The demo's closing table."""

from __future__ import annotations

from rich.table import Table

from app.cli.demo.figures import DemoFigures, percentile


def table(figures: DemoFigures) -> Table:
    """What was done, how long it took, and how long it had to take."""
    shown = Table(title="Penstock demo", show_header=False, title_style="bold", min_width=44)
    shown.add_column(justify="left")
    shown.add_column(justify="right")
    for name, value in rows(figures):
        shown.add_row(name, value)
    return shown


def rows(figures: DemoFigures) -> list[tuple[str, str]]:
    """The table's lines."""
    ideal = "unknown" if figures.ideal_seconds is None else f"{figures.ideal_seconds:.1f}"
    refusals = "not counted" if figures.refusals is None else str(figures.refusals)
    return [
        ("tasks succeeded", f"{figures.succeeded} of {figures.tasks}"),
        ("seconds", f"{figures.seconds:.1f}"),
        ("seconds at best, by the told limits", ideal),
        ("429s met", refusals),
        ("callbacks verified", f"{figures.callbacks_verified} of {figures.callbacks_due}"),
        ("most waiting at once, as Flower showed", str(figures.backlog_peak)),
        ("seconds from submission to end, p50", f"{percentile(figures.waits, 0.5):.1f}"),
        ("seconds from submission to end, p95", f"{percentile(figures.waits, 0.95):.1f}"),
    ]
