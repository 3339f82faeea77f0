"""The leader publishes why tasks wait, once a second, for the API and the dashboard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Protocol

from app.pacing.domain.plan import Release, Snapshot, Wait
from app.pacing.domain.route_availability import down_models, keyless_models
from app.pacing.domain.throughput import ReleaseRates, capacities, expected_paces
from app.pacing.domain.why import binding_of, in_words
from app.settings.domain.routing import QuotaState, Topology

EVERY = 1.0  # seconds


class Board(Protocol):
    """Where it is published."""

    def publish(self, said: Mapping[str, Any]) -> None:
        """Replace what was published before. Raises RedisUnreachable."""


@dataclass(slots=True)
class PublishWaitReasons:
    """Why tasks wait, and the measured and expected pace of each queue.

    The tick owns it; a lock guards the measured rates, and all else is exchanged as a whole.
    Threads: `record_tick`: tick; `pace_of`: healer.
    """

    board: Board
    paces: ReleaseRates = field(default_factory=ReleaseRates)
    lists: tuple[tuple[str, int], ...] = ()  # queue and step of those with tasks waiting
    expected: Mapping[tuple[str, int], float] = field(default_factory=dict)
    capacities: Mapping[str, float] = field(default_factory=dict)
    down: tuple[str, ...] = ()  # models that nothing can serve until an upstream recovers
    _due: float = 0.0
    _pacing: Lock = field(default_factory=Lock)  # guards `paces`

    def record_tick(
        self,
        seen: Snapshot,
        topology: Topology,
        waits: Mapping[str, Wait],
        done: Sequence[Release],
        more: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """Record a tick. `more` returns what else the leader publishes of itself. Raises RedisUnreachable."""
        now, quotas = seen.now, seen.quotas
        with self._pacing:
            for release in done:
                self.paces.released(release.queue, release.step, now)
        if self._due - EVERY <= now < self._due:  # otherwise it is due, or pacing time went back
            return
        self._due = now + EVERY
        self.lists = tuple((one.queue, one.step) for one in seen.waiting)
        self.down = down_models(topology, quotas, seen.suspensions.keys)
        self.capacities = capacities(topology, quotas, seen.speeds)
        self.expected = expected_paces(seen.waiting, topology, quotas, seen.clients, seen.speeds)
        reasons = {name: state.reason for name, state in quotas.items()}
        led = more()
        self.board.publish(
            {
                "models": {model: _model(wait, quotas, reasons, now) for model, wait in waits.items()},
                "paces": self.capacities,
                "down": self.down,
                "keyless": keyless_models(topology, _refused(led.get("health", {}))),
                "lines": {f"{queue}|{step}": self._likely(queue, step, now) for queue, step in self.lists},
                "dispatcher": {"at": now, **led},
            }
        )

    def pace_of(self, queue: str, model: str) -> float | None:
        """Tasks a second of a queue, all priorities together; of an empty one, the capacity of its model."""
        mine = [key for key in self.lists if key[0] == queue]
        paces = [self._likely(*key, self._due - EVERY) for key in mine]
        known = [pace for pace in paces if pace is not None]
        return sum(known) if known else self.capacities.get(model)

    def _likely(self, queue: str, step: int, now: float) -> float | None:
        with self._pacing:
            return self.paces.likely(queue, step, now, self.expected.get((queue, step)))


def _refused(health: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Keys and accounts that lack access or money."""
    return {name for name, one in health.items() if one["condition"] != "unreachable"}


def _model(
    wait: Wait, quotas: Mapping[str, QuotaState], reasons: Mapping[str, str], now: float
) -> dict[str, Any]:
    """What one model's tasks wait for, as it is published."""
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
