"""What waits in backlog lists, as planning sees it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QueueHead:
    """A task at the head of a backlog list."""

    task_id: str
    estimate: float  # tokens
    avoid: tuple[str, ...] = ()  # keys and other notes of what its earlier calls came to
    facts: str = ""  # which conditions of tiers it meets, see eligibility.py
    sequence: int = 0
    asked: int = 0  # tokens its answer may have; 0: open
    prefix: str = ""  # what its prompt begins with, see affinity.py


@dataclass(frozen=True, slots=True)
class WaitingList:
    """One list of a backlog queue: `heads` are the first few of `length`."""

    queue: str
    model: str
    client: str
    step: int
    length: int
    heads: tuple[QueueHead, ...]
