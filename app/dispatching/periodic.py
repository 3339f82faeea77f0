"""The leader's periodic jobs: one type, one cooldown, one runner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

MORE = object()  # returned by a job's run: work is left, so it is due again at once
EACH_ROUND = 0.0  # `every` of a job that is due in each round


@dataclass(slots=True)
class Cooldown:
    """Lets something through at most once every so many seconds; the first time at once. Monotonic seconds."""

    seconds: float
    _due_at: float = float("-inf")

    def ready(self, at: float) -> bool:
        """Whether its time has come; if so, it is restarted."""
        if at < self._due_at:
            return False
        self._due_at = at + self.seconds
        return True

    def reset(self) -> None:
        """Be ready again at once."""
        self._due_at = float("-inf")


@dataclass(slots=True)
class PeriodicJob:
    """`run` every so many seconds. Each run is bounded; it returns MORE when it left work."""

    name: str
    every: float  # seconds
    run: Callable[[], object]
    _cooldown: Cooldown = field(init=False)

    def __post_init__(self) -> None:
        self._cooldown = Cooldown(self.every)

    def tick(self, at: float) -> bool:
        """Run it if it is due at `at` (monotonic). Returns whether it ran. Raises what `run` raises."""
        if not self._cooldown.ready(at):
            return False
        if self.run() is MORE:
            self._cooldown.reset()
        return True


def run_due(jobs: Sequence[PeriodicJob], at: float, report: Callable[[str, Exception], object]) -> None:
    """Run each job that is due; `report` gets the name and error of one that fails, and the others still run."""
    for job in jobs:
        try:
            job.tick(at)
        except Exception as error:  # noqa: BLE001 - reported, and tried again when it is next due
            report(job.name, error)
