"""The leader tells why tasks wait: once a second, to whoever asks the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.domain.plan import Release, Wait, Waiting
from app.domain.quota import QuotaState
from app.domain.releases_lately import Accuracy, Paces
from app.domain.why import in_words, starts_in

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
    accuracy: Accuracy = field(default_factory=Accuracy)
    _due: float = 0.0

    def turned(
        self,
        now: float,
        waiting: Sequence[Waiting],
        quotas: Mapping[str, QuotaState],
        waits: Mapping[str, Wait],
        done: Sequence[Release],
        reasons: Mapping[str, str],
    ) -> None:
        """One turn of the dispatcher is over; `now` is gate time. Raises RedisUnreachable."""
        for release in done:
            self.paces.released(release.queue, release.step, now)
            self.accuracy.started(release.task_id, now)
        if now < self._due:
            return
        self._due = now + EVERY
        self.accuracy.forget(now)
        self._estimate(now, waiting)
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
                "lines": {
                    f"{one.queue}|{one.step}": {
                        "head": one.heads[0].sequence,
                        "length": one.length,
                        "rate": round(self.paces.rate(one.queue, one.step, now), 4),
                    }
                    for one in waiting
                    if one.heads
                },
                "estimates": self.accuracy.summary(),
            }
        )

    def _estimate(self, now: float, waiting: Sequence[Waiting]) -> None:
        """Watch the estimate of the last task looked at of each list."""
        for one in waiting:
            rate = self.paces.rate(one.queue, one.step, now)
            seconds = starts_in(len(one.heads), rate, float("inf")) if one.heads else None
            if seconds is not None:
                self.accuracy.estimated(one.heads[-1].task_id, now, now + seconds)
