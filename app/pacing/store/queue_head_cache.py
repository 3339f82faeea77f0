"""The leader's cache of the heads of backlog lists: a snapshot contains only queues that changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.pacing.domain.backlog import read_place
from app.pacing.domain.plan import QueueHead, WaitingList
from app.platform.domain.names import parse_backlog_queue

EVERY = 1.0  # seconds after which all queues are read again, changed or not
LOOKED = 128  # as in prelude.lua: changes behind so many heads are not reported


@dataclass(slots=True)
class QueueHeadCache:
    """Valid for one term. It is a hint: the release of a task that is gone is refused, and reported as a change.

    `bad_queues` and `bad_places` (task ids) could not be read in the last snapshot, and are left out.
    """

    bad_queues: list[str] = field(default_factory=list)
    bad_places: list[str] = field(default_factory=list)

    _by_queue: dict[str, tuple[WaitingList, ...]] = field(default_factory=dict)
    _all: tuple[WaitingList, ...] = ()
    _term: str = ""
    _depth: int = 0  # heads of each list that are known, unless it is shorter
    _last: int = 0  # number of the last change that is known; 0: nothing is
    _looked_at: float = 0.0  # pacing time
    _all_at: float = 0.0

    def since(self, term: str, depth: int) -> int:
        """The last known change, or 0 for all. Until `update` nothing is known: answers may get lost."""
        fresh = term == self._term and self._looked_at - self._all_at < EVERY
        since = self._last if fresh and depth <= min(self._depth, LOOKED) else 0
        self._last, self._term = 0, term
        return since

    def update(
        self, at: float, depth: int, whole: bool, last: int, queues: Iterable[Any], models: Collection[str]
    ) -> tuple[WaitingList, ...]:
        """Take in an answer of snapshot.lua. Returns all lists. `whole`: it contains every queue."""
        self.bad_queues, self.bad_places = [], []
        changed = {name: self._lists(name, rows, models) for name, rows in queues}
        if whole:
            self._by_queue, self._all_at = {}, at
        if whole or changed:
            self._depth = depth if whole else min(self._depth, depth)
            self._by_queue.update(changed)
            for name in [name for name in changed if not changed[name]]:
                del self._by_queue[name]
            self._all = tuple(one for lists in self._by_queue.values() for one in lists)
        self._last, self._looked_at = last, at
        return self._all

    def _lists(
        self, name: str, rows: Iterable[Sequence[Any]], models: Collection[str]
    ) -> tuple[WaitingList, ...]:
        try:
            model, client = parse_backlog_queue(name)
        except ValueError:
            self.bad_queues.append(name)
            return ()
        if model not in models:
            return ()
        return tuple(
            WaitingList(name, model, client, int(step), int(length), self._heads(heads or ()))
            for step, length, heads in rows
        )

    def _heads(self, flat: Sequence[str]) -> tuple[QueueHead, ...]:
        try:  # nearly always all are readable
            return tuple(map(read_place, flat[::2], flat[1::2]))
        except ValueError:
            return tuple(filter(None, map(self._head, flat[::2], flat[1::2])))

    def _head(self, task_id: str, place: str) -> QueueHead | None:
        try:
            return read_place(task_id, place)
        except ValueError:
            self.bad_places.append(task_id)
            return None
