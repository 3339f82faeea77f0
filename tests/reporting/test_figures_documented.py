"""docs/metrics.md names every figure with its kind and labels, and no other."""

import re
from pathlib import Path

from prometheus_client import Counter, Histogram

from app.reporting.meters import BY_CLIENT, FIGURES, SERVICE_FIGURES

ROOT = Path(__file__).parents[2]


def figures() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Names as Prometheus has them, with kind and labels."""
    found = {}
    for figure in FIGURES:
        kind = {Counter: "counter", Histogram: "histogram"}.get(figure.kind, "gauge")  # type: ignore[arg-type]
        found[figure.name + ("_total" if kind == "counter" else "")] = (kind, figure.labels)
    for name, (_, labels) in SERVICE_FIGURES.items():
        found[name] = ("counter" if name.endswith("_total") else "gauge", labels)
    return found


def test_every_figure_is_documented_as_it_is_and_nothing_else() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(penstock_\w+)` \| (\w+) \| ([^|]*) \|", text, re.MULTILINE)
    documented = {
        name: (kind, tuple(filter(None, labels.replace(" ", "").split(",")))) for name, kind, labels in rows
    }
    assert documented == figures()


def test_a_figure_by_client_can_be_told_by_its_name() -> None:
    for name, (_, labels) in figures().items():
        assert ("client" in labels) == name.startswith(BY_CLIENT), name
