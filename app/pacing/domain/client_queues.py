"""Backlog lists while planning: each is taken from its head on."""

from __future__ import annotations

from collections.abc import Iterator

from app.pacing.domain.waiting import QueueHead, WaitingList


class ClientQueue:
    """One list being taken from its head. What may not go now stays, and is passed over."""

    __slots__ = ("at", "passed", "source")

    def __init__(self, source: WaitingList) -> None:
        self.source = source
        self.at = 0
        self.passed = 0  # heads that stay in front of the next one

    def head(self) -> QueueHead | None:
        """The next one; None when all heads looked at are used up."""
        heads = self.source.heads
        return heads[self.at] if self.at < len(heads) else None

    def take(self) -> None:
        """The head is released."""
        self.at += 1

    def pass_over(self) -> None:
        """The head stays, and those behind it come forward."""
        self.at += 1
        self.passed += 1


class PriorityQueue:
    """What one client has waiting for one model."""

    __slots__ = ("client", "held", "lines", "model")

    def __init__(self, model: str, client: str) -> None:
        self.model = model
        self.client = client
        self.lines: list[ClientQueue] = []
        self.held = False

    def heads(self) -> Iterator[tuple[ClientQueue, QueueHead]]:
        """The next of each list."""
        return ((line, head) for line in self.lines if (head := line.head()) is not None)

    def has_head(self) -> bool:
        """Whether anything can be taken from it."""
        return not self.held and any(line.head() for line in self.lines)

    def dry(self) -> bool:
        """Whether all heads looked at of some list are used up, while it holds more."""
        return any(line.head() is None and line.source.length > line.at for line in self.lines)
