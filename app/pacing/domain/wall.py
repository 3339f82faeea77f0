"""A quota that only refuses: growing pauses, and one call at a time to find out when it is over.

1. Each refusal of a call that was sent after the last pause doubles the next one, up to `longest`; what was under way
   when a pause began says nothing new.
2. While nothing has succeeded, one call goes after each pause, and another one only when it stays out for as long.
3. The first success of a call sent since the first refusal ends it. One that was sent before shows only that the
   upstream lives: pauses begin anew.
"""

from __future__ import annotations

from dataclasses import dataclass

_JITTER = 0.1  # by what part a pause may be shorter, so that quotas of one upstream do not come back together


@dataclass(slots=True)
class Wall:
    """One quota's refusals without a success between them. All instants are gate time."""

    pauses: int = 0  # in a row
    began: float = -1e18  # when the first refusal came back
    paused_at: float = -1e18  # when the last pause began
    pause: float = 0.0  # seconds that it lasts
    sent_at: float = -1e18  # the last release since
    is_kept: bool = False  # worth telling a successor: more than one pause, or their end

    @property
    def stands(self) -> bool:
        """Whether calls go one by one."""
        return self.pauses > 0

    def refused(
        self, released_at: float, at: float, base: float, longest: float, chance: float
    ) -> float | None:
        """Seconds from `at` for which nothing is to be released; None where the present pause is enough.

        `chance` lies in [0, 1).
        """
        if not self._is_new(released_at, at):
            return None
        self.pauses += 1
        self.is_kept = self.is_kept or self.pauses > 1
        self.pause = pause_after(self.pauses, base, longest, chance)
        return self.pause if self.pauses > 1 else None  # the worker that was refused began the first one

    def told(self, released_at: float, at: float, seconds: float) -> None:
        """Refused by an upstream that said for how long: that is kept, and does not count as one of our pauses."""
        if self._is_new(released_at, at):
            self.pauses, self.pause = max(1, self.pauses), seconds

    def succeeded(self, released_at: float) -> None:
        """A call was taken."""
        self.pauses = min(self.pauses, 1) if released_at <= self.began and self.pauses > 1 else 0

    def released(self, at: float) -> None:
        """A call was let through."""
        self.sent_at = at

    def room(self, now: float, flight: int) -> int:
        """How many more calls may be let through now."""
        return int(flight == 0 or self.sent_at <= self.paused_at or now - self.sent_at >= self.pause)

    def look(self, now: float) -> None:
        """Gate time may have gone back, when Redis was restored from an older file: what lies ahead counts from now."""
        self.began, self.paused_at = min(self.began, now), min(self.paused_at, now)
        self.sent_at = min(self.sent_at, now)

    def _is_new(self, released_at: float, at: float) -> bool:
        if self.stands and released_at <= self.paused_at:
            return False
        if not self.stands:
            self.began = at
        self.paused_at = at
        return True


def pause_after(refusals: int, base: float, longest: float, chance: float) -> float:
    """Seconds to rest after so many refusals in a row (from 1): doubled each time, at most `longest` (or `base`)."""
    return min(max(base, longest), base * 2.0 ** min(refusals - 1, 64)) * (1 - _JITTER * chance)
