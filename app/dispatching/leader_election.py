"""Become the leader, when there is none that beats."""

from __future__ import annotations

from typing import Protocol

from app.platform.ports import Clock

SILENCE = 2.0  # seconds without a beat, on the candidate's own clock, after which a leader is taken for gone


class LeaderLock(Protocol):
    """Where the term is kept."""

    def leader(self) -> tuple[str, str]:
        """The present term and its beat."""

    def take_lead(self, term: str, seen: str) -> bool:
        """Take the lead if `seen` still stands."""


class LeaderElection:
    """Watches the leader's beat."""

    def __init__(self, seat: LeaderLock, clock: Clock) -> None:
        self._seat = seat
        self._clock = clock
        self._seen: tuple[str, str] | None = None
        self._since = 0.0

    def try_lead(self, term: str) -> bool:
        """Take the lead under `term` if nobody leads, or the leader's beat has not changed for 2 s.

        Raises RedisUnreachable.
        """
        present = self._seat.leader()
        if present != self._seen:
            self._seen, self._since = present, self._clock.monotonic()
        vacant = not present[0]
        if not vacant and self._clock.monotonic() - self._since < SILENCE:
            return False
        self._seen = None
        return self._seat.take_lead(term, present[0])
