"""The leader tells why tasks wait: once a second, to whoever asks the API."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Protocol

from app.pacing.domain.plan import Release, Snapshot, Wait
from app.pacing.domain.throughput import ReleaseRates, capacities, expected_paces
from app.pacing.domain.why import binding_of, in_words
from app.settings.domain.routing import QuotaState, Topology

EVERY = 1.0  # seconds


class Board(Protocol):
    """Where it is told."""

    def tell(self, said: Mapping[str, Any]) -> None:
        """Replace what was told before. Raises RedisUnreachable."""


@dataclass(slots=True)
class PublishWaitReasons:
    """Kept by the leader: its turns tell, and one of its chores asks for paces meanwhile."""

    board: Board
    paces: ReleaseRates = field(default_factory=ReleaseRates)
    lists: tuple[tuple[str, int], ...] = ()  # those that had something waiting
    expected: Mapping[tuple[str, int], float] = field(default_factory=dict)
    capacities: Mapping[str, float] = field(default_factory=dict)
    _due: float = 0.0
    _pacing: Lock = field(default_factory=Lock)  # whoever holds it may touch `paces`

    def turned(
        self,
        seen: Snapshot,
        topology: Topology,
        waits: Mapping[str, Wait],
        done: Sequence[Release],
        standing: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """One turn of the dispatcher is over; `standing` is what else it tells of itself. Raises RedisUnreachable."""
        now, quotas = seen.now, seen.quotas
        with self._pacing:
            for release in done:
                self.paces.released(release.queue, release.step, now)
        if self._due - EVERY <= now < self._due:  # else it is due, or gate time went back
            return
        self._due = now + EVERY
        self.lists = tuple((one.queue, one.step) for one in seen.waiting)
        self.capacities = capacities(topology, quotas, seen.speeds)
        self.expected = expected_paces(seen.waiting, topology, quotas, seen.clients, seen.speeds)
        reasons = {name: state.reason for name, state in quotas.items()}
        self.board.tell(
            {
                "models": {model: _model(wait, quotas, reasons, now) for model, wait in waits.items()},
                "paces": self.capacities,
                "lines": {f"{queue}|{step}": self._likely(queue, step, now) for queue, step in self.lists},
                "dispatcher": {"at": now, **standing()},
            }
        )

    def pace_of(self, queue: str, model: str) -> float | None:
        """A queue's tasks a second, all priorities together; while it stands empty, all that its model may take."""
        mine = [key for key in self.lists if key[0] == queue]
        paces = [self._likely(*key, self._due - EVERY) for key in mine]
        known = [pace for pace in paces if pace is not None]
        return sum(known) if known else self.capacities.get(model)

    def _likely(self, queue: str, step: int, now: float) -> float | None:
        with self._pacing:
            return self.paces.likely(queue, step, now, self.expected.get((queue, step)))


def _model(
    wait: Wait, quotas: Mapping[str, QuotaState], reasons: Mapping[str, str], now: float
) -> dict[str, Any]:
    """What one model's tasks wait for, as it is told."""
    binding = binding_of(wait, quotas, reasons, now)
    return {
        "reason": wait.reason,
        "words": in_words(binding),
        "opens_in": None if wait.opens_in == float("inf") else round(wait.opens_in, 3),
        "bound": binding.bound,
        "subject": binding.subject,
        "figure": binding.figure,
        "why": binding.why,
    }
