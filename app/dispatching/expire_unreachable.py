"""Expire tasks that can no longer begin before their deadlines, instead of letting them wait for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from app.pacing.domain.reachable import ThroughputCeiling, ceiling_of, unreachable
from app.pacing.store import lines
from app.platform.database import Database
from app.platform.domain.names import parse_backlog_queue
from app.platform.ports import Clock
from app.settings.domain.routing import Topology
from app.tasks.domain.attempt import TaskFailure
from app.tasks.ports import BacklogPublisher

EVERY = 5.0  # seconds
SEEN = 5_000  # tasks of a line that are looked at: those behind come forward
_AT_ONCE = 1_000  # ended in one transaction

Lists = Callable[[], Iterable[tuple[str, int]]]
"""The lists that have something waiting: queue and step."""


class ExpireUnreachable:
    """One of the leader's chores."""

    def __init__(
        self,
        database: Database,
        reservoir: BacklogPublisher,
        clock: Clock,
        topology: Topology,
        waiting: Lists,
    ) -> None:
        self._database = database
        self._reservoir = reservoir
        self._clock = clock
        self._ceilings = {
            model: ceiling
            for model in topology.models
            if (ceiling := ceiling_of(model, topology)) is not None
        }
        self._waiting = waiting
        self._due = 0.0

    def tick(self) -> int:
        """Look at all lists once every five seconds; gives back how many ended. Raises DatabaseUnreachable."""
        if self._clock.monotonic() < self._due:
            return 0
        self._due = self._clock.monotonic() + EVERY
        return sum(
            self._look(queue, step, ceiling)
            for queue, step in sorted(self._waiting())
            if (ceiling := self._ceilings.get(parse_backlog_queue(queue)[0])) is not None
        )

    def _look(self, queue: str, step: int, ceiling: ThroughputCeiling) -> int:
        now = self._clock.now()
        line = self._database.read(lambda conn: lines.deadlines(conn, queue, step, SEEN))
        late = unreachable([deadline for deadline, _ in line], now, ceiling)[:_AT_ONCE]
        if not late:
            return 0
        numbers = [line[place][1] for place in late]
        ended = self._database.write(lambda conn: lines.expire_at_once(conn, numbers, now, _failure(ceiling)))
        if ended:
            self._reservoir.forget(ended)
            self._reservoir.announce(ended)
        return len(ended)


def _failure(ceiling: ThroughputCeiling) -> TaskFailure:
    return TaskFailure(
        "timeout_error",
        "deadline_unreachable",
        f"the task could not have begun before its deadline: at most {ceiling.told:.0f} calls a minute may be made, "
        "and too many of its client's tasks stand before it",
    )
