"""What a run of the chaos suite prints: one line a law, and a table a fault, in Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from tests.chaos.auditor import Finding, Recovery


def laws(findings: Iterable[Finding]) -> str:
    """A table of the laws."""
    rows = [f"| {'yes' if f.held else '**no**'} | {f.law} | {f.figure} |" for f in findings]
    return "\n".join(["| held | law | figure |", "|---|---|---|", *rows])


def faults(recoveries: Sequence[Recovery]) -> str:
    """A table of the faults in the order of their first time: how often, how long, how soon all was well again."""
    times: dict[str, list[Recovery]] = defaultdict(list)
    for recovery in recoveries:
        times[recovery.fault].append(recovery)
    rows = [
        f"| `{name}` | {found[0].text} | {len(found)} | {_longest(r.lasted for r in found)} | {_worst(found)} |"
        for name, found in times.items()
    ]
    head = [
        "| fault | what is done | times | lasted (s) | back to 90 % of pace after (s) |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*head, *rows])


def _longest(seconds: Iterable[float]) -> str:
    return f"{max(seconds):.0f}"


def _worst(found: Sequence[Recovery]) -> str:
    """The longest; and whether it was allowed to take longer than others."""
    afters = [r.back_after for r in found]
    if None in afters:
        return "not seen"
    return f"{max(a for a in afters if a is not None):.1f}"
