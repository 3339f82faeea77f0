"""What the benchmarks share: rounds in turn, ratios with their spread, tables, and where results are kept.

A benchmark is a file `bench_NAME.py` here, run as `python -m benchmarks.bench_NAME [--quick]`. Its docstring's first
line says what it measures. What it hands to a `Record` is printed, kept as `results/NAME.json` (ignored by git), and
from there goes into docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"


@dataclass(frozen=True, slots=True)
class Aim:
    """One row of what is aimed at: what was measured against what, and whether it is reached."""

    measure: str
    against: str
    aim: str
    found: str
    met: bool | None  # None: there is no aim


@dataclass(frozen=True, slots=True)
class Table:
    """Figures under a heading."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class Record:
    """What one benchmark found. `kind` sorts tables on the page: "" the benchmark's own part."""

    name: str
    title: str
    quick: bool = False
    settings: list[str] = field(default_factory=list)
    aims: list[Aim] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)  # for other pages' arithmetic
    printed: str = ""  # of a benchmark that keeps no record of its own
    seconds: float = 0.0
    at: float = field(default_factory=time.time)

    def aim(self, measure: str, against: str, aim: str, found: str, met: bool | None = None) -> None:
        """Add a row of aims, and print it."""
        self.aims.append(Aim(measure, against, aim, found, met))
        word = {True: "reached", False: "MISSED", None: ""}[met]
        print(f"{measure}: {found}  (against {against}; aim {aim or '-'})  {word}", flush=True)

    def table(self, title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Add a table, and print it."""
        made = Table(title, head, [[str(cell) for cell in row] for row in rows])
        self.tables.append(made)
        print(f"\n{title}\n{markdown(made)}\n", flush=True)

    def save(self) -> None:
        """Keep it for the page."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.json"
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load(path: Path) -> Record:
    """Read a kept record."""
    told = json.loads(path.read_text(encoding="utf-8"))
    told["aims"] = [Aim(**aim) for aim in told["aims"]]
    told["tables"] = [Table(**table) for table in told["tables"]]
    return Record(**told)


def markdown(table: Table) -> str:
    """A table as Markdown, its columns aligned."""
    lines = [list(table.head), *[list(row) for row in table.rows]]
    widths = [max(len(line[at]) for line in lines) for at in range(len(table.head))]
    out = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    out.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(out)


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """The median, and the least and most of all rounds: `0.82 (0.79 to 0.85)`."""
    middle = format(statistics.median(values), form)
    if len(values) == 1:
        return middle
    return f"{middle} ({format(min(values), form)} to {format(max(values), form)})"


def ratios(ones: Sequence[float], others: Sequence[float]) -> list[float]:
    """Ratios round by round: neighbours in time met the same machine."""
    return [one / other for one, other in zip(ones, others, strict=True)]


def in_turn(rounds: int, contestants: Mapping[str, Callable[[], Any]]) -> dict[str, list[Any]]:
    """Let each run once a round, in alternating order; gives back what each gave, round by round."""
    found: dict[str, list[Any]] = {name: [] for name in contestants}
    for number in range(rounds):
        names = list(contestants) if number % 2 == 0 else list(reversed(contestants))
        for name in names:
            found[name].append(contestants[name]())
            print(f"  round {number + 1}  {name}: {_short(found[name][-1])}", flush=True)
    return found


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which `part` of all lie, by nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(part * len(ordered)) - 1))]


def options(docstring: str | None, **defaults: tuple[Any, Any]) -> argparse.Namespace:
    """The command line of a benchmark: each option with its default and what it is under --quick."""
    parser = argparse.ArgumentParser(
        description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller sizes: a look, not a figure to quote")
    for name, (usual, quick) in defaults.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(usual),
            default=None,
            help=f"{usual} (quick: {quick}) unless given",
        )
    told = parser.parse_args()
    for name, (usual, quick) in defaults.items():
        if getattr(told, name) is None:
            setattr(told, name, quick if told.quick else usual)
    return told


@contextmanager
def recorded(name: str, title: str, *, quick: bool) -> Iterator[Record]:
    """Run a benchmark's body with a record, which is kept when the body came to its end."""
    record, began = Record(name, title, quick), time.monotonic()
    yield record
    record.seconds = time.monotonic() - began
    record.save()


def machine() -> str:
    """What it ran on, in a few words."""
    model = "unknown processor"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{os.cpu_count()} cores ({model}), Python {sys.version.split()[0]}"
