"""The backlog as planning sees it: entries at queue heads, their encoding, clients' queues, and positions in them."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

from app.tasks.domain.attempt import Message
from app.tasks.domain.task import NOT_DUE


@dataclass(frozen=True, slots=True)
class QueueHead:
    """A task at the head of a backlog list."""

    task_id: str
    estimate: float  # tokens
    avoid: tuple[str, ...] = ()  # keys that earlier calls failed with, and other notes on them
    facts: str = ""  # which conditions of tiers it meets, see eligibility.py
    sequence: int = 0
    asked: int = 0  # max_tokens of its answer; 0: none given
    prefix: str = ""  # hash of its system prompt, see route_availability.py


@dataclass(frozen=True, slots=True)
class WaitingList:
    """One list of a backlog queue: `heads` are the first few of `length`."""

    queue: str
    model: str
    client: str
    step: int
    length: int
    heads: tuple[QueueHead, ...]


_SAFE = (
    ";:=/@+ "  # unescaped in any field; separators of fields (|) and notes (,) and the escape (%) never are
)


def write_place(message: Message) -> str:
    """Encode a message's entry. `read_place` decodes it; scripts read its sixth field alone."""
    avoid = ",".join(map(_escaped, message.avoid))
    due = "" if message.due >= NOT_DUE else f"{message.due:.3f}"
    facts, prefix = _escaped(message.facts, ","), _escaped(message.prefix)
    return f"{message.estimate}|{avoid}|{facts}|{message.sequence}|{prefix}|{due}|{message.asked or ''}"


def read_place(task_id: str, place: str) -> QueueHead:
    """Decode a task's entry. Raises ValueError for an invalid one."""
    estimate, avoid, facts, sequence, prefix, _due, asked = (place + "||||||").split("|")[:7]
    tokens = float(estimate)
    if not (math.isfinite(tokens) and tokens >= 0):
        raise ValueError(f"no estimate: {estimate[:20]!r}")
    notes = tuple(map(_plain, avoid.split(","))) if avoid else ()
    return QueueHead(
        task_id, tokens, notes, _plain(facts), int(sequence or 0), int(asked or 0), _plain(prefix)
    )


def _escaped(text: str, more: str = "") -> str:
    return quote(text, safe=_SAFE + more, errors="surrogatepass") if text else ""


def _plain(text: str) -> str:
    return unquote(text, errors="surrogatepass") if "%" in text else text


class PriorityQueue:
    """One list, taken from its head. A head that may not be released now stays, and is passed over."""

    __slots__ = ("at", "passed", "source")

    def __init__(self, source: WaitingList) -> None:
        self.source = source
        self.at = 0
        self.passed = 0  # heads that stay in front of the next one

    def head(self) -> QueueHead | None:
        """The next head; None when all that were read are used up."""
        heads = self.source.heads
        return heads[self.at] if self.at < len(heads) else None

    def take(self) -> None:
        """The head is released."""
        self.at += 1

    def pass_over(self) -> None:
        """The head stays, and those behind it come forward."""
        self.at += 1
        self.passed += 1


class ClientQueue:
    """What one client has waiting for one model: a list for each priority."""

    __slots__ = ("client", "held", "lines", "model")

    def __init__(self, model: str, client: str) -> None:
        self.model = model
        self.client = client
        self.lines: list[PriorityQueue] = []
        self.held = False

    def heads(self) -> Iterator[tuple[PriorityQueue, QueueHead]]:
        """The next of each list."""
        return ((line, head) for line in self.lines if (head := line.head()) is not None)

    def has_head(self) -> bool:
        """Whether anything can be taken from it."""
        return not self.held and any(line.head() for line in self.lines)

    def dry(self) -> bool:
        """Whether all heads that were read of some list are used up, while it holds more."""
        return any(line.head() is None and line.source.length > line.at for line in self.lines)


Mark = tuple[float, int]  # due (Unix seconds, or task.NOT_DUE) and seq


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """The first tasks of a queue at one priority. `whole`: there are no others; `newest`: the last sequence number.

    `far`: of a long queue, some of its tasks in order, each with the number of tasks before it, counted a while ago.
    """

    marks: Sequence[Mark] = ()
    whole: bool = True
    newest: int = 0
    far: Sequence[tuple[Mark, int]] = ()

    def ahead_of(self, due: float, seq: int) -> int:
        """How many tasks are served before (due, seq): exact within the marks; beyond them counted, within a few."""
        known = len(self.marks)
        at = bisect_left(self.marks, (due, seq))
        if at < known or self.whole or not known:
            return at
        if self.far:
            left_since = _rank(self.far, self.marks[0])
            return max(known, round(_rank(self.far, (due, seq)) - left_since))
        return known + max(0, round(self._beyond(due, seq)) - 1)

    def ahead_of_new(self, due: float) -> int:
        """How many tasks are before a new one."""
        return self.ahead_of(due, self.newest + 1)

    def _beyond(self, due: float, seq: int) -> float:
        """Estimated places behind the last mark, at the density of the marks."""
        last_due, last_seq = self.marks[-1]
        if due == last_due:
            first = bisect_left(self.marks, (due, 0))
            return _density(len(self.marks) - first, self.marks[first][1], last_seq) * (seq - last_seq)
        return (
            _density(len(self.marks), self.marks[0][0], last_due) * (due - last_due) if due < NOT_DUE else 0.0
        )


def _rank(far: Sequence[tuple[Mark, int]], mark: Mark) -> float:
    """The number of tasks before a mark, between those that were counted in proportion."""
    at = bisect_left(far, mark, key=lambda one: one[0])
    if at == 0:
        return float(far[0][1])
    if at == len(far):  # it came since
        return far[-1][1] + 1.0
    (low, least), (high, most) = far[at - 1], far[at]
    axis = 1 if low[0] == high[0] else 0
    span = high[axis] - low[axis]
    return least + (most - least) * ((mark[axis] - low[axis]) / span if span else 1.0)


def _density(count: int, first: float, last: float) -> float:
    """Tasks per unit; None where all have one value."""
    return (count - 1) / (last - first) if last > first else 0.0
