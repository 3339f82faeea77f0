"""The leader tells why tasks wait: once a second, to whoever asks the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.domain.expected_pace import capacities, expected_paces
from app.domain.plan import Release, Snapshot, Wait
from app.domain.releases_lately import Paces
from app.domain.routing import Topology
from app.domain.why import in_words

EVERY = 1.0  # seconds


class Board(Protocol):
    """Where it is told."""

    def tell(self, said: Mapping[str, Any]) -> None:
        """Replace what was told before. Raises RedisUnreachable."""


@dataclass(slots=True)
class TellWhy:
    """Kept by the leader."""

    board: Board
    paces: Paces = field(default_factory=Paces)
    _due: float = 0.0

    def turned(
        self,
        seen: Snapshot,
        topology: Topology,
        waits: Mapping[str, Wait],
        done: Sequence[Release],
    ) -> None:
        """One turn of the dispatcher is over. Raises RedisUnreachable."""
        now, quotas = seen.now, seen.quotas
        for release in done:
            self.paces.released(release.queue, release.step, now)
        if now < self._due:
            return
        self._due = now + EVERY
        expected = expected_paces(seen.waiting, topology, quotas, seen.clients, seen.speeds)
        reasons = {name: state.reason for name, state in quotas.items()}
        self.board.tell(
            {
                "models": {
                    model: {
                        "reason": wait.reason,
                        "words": in_words(wait, quotas, reasons, now),
                        "opens_in": None if wait.opens_in == float("inf") else round(wait.opens_in, 3),
                    }
                    for model, wait in waits.items()
                },
                "paces": capacities(topology, quotas, seen.speeds),
                "lines": {
                    f"{one.queue}|{one.step}": self.paces.likely(
                        one.queue, one.step, now, expected.get((one.queue, one.step))
                    )
                    for one in seen.waiting
                },
            }
        )
