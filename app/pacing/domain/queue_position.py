"""Where a task stands in its line: what one client has waiting for one model at one priority, as it will be served.

The order is (`due`, `seq`): those that go by their deadline first, then as they came. Of a line only the first few
thousand are known; beyond them a place is reckoned by how densely the known ones stand in the common numbering of all
tasks, of which the line's own are but a part.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from app.tasks.domain.task import NOT_DUE

Mark = tuple[float, int]  # due (Unix seconds, or task.NOT_DUE) and seq


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """The first tasks of a line, in order. `whole`: there are no others; `newest`: the last number given to a task."""

    marks: Sequence[Mark] = ()
    whole: bool = True
    newest: int = 0

    def ahead_of(self, due: float, seq: int) -> int:
        """How many are served before the task (due, seq): exact within the marks, about right beyond them."""
        known = len(self.marks)
        at = bisect_left(self.marks, (due, seq))
        if at < known or self.whole or not known:
            return at
        return known + max(0, round(self._beyond(due, seq)) - 1)

    def ahead_of_new(self, due: float) -> int:
        """How many are before one that would come now."""
        return self.ahead_of(due, self.newest + 1)

    def _beyond(self, due: float, seq: int) -> float:
        """How many places a task stands behind the last mark, as densely as the marks stand."""
        last_due, last_seq = self.marks[-1]
        if due == last_due:
            first = bisect_left(self.marks, (due, 0))
            return _density(len(self.marks) - first, self.marks[first][1], last_seq) * (seq - last_seq)
        return (
            _density(len(self.marks), self.marks[0][0], last_due) * (due - last_due) if due < NOT_DUE else 0.0
        )


def _density(count: int, first: float, last: float) -> float:
    """Tasks per unit; none where they all stand at one."""
    return (count - 1) / (last - first) if last > first else 0.0
