"""Time that tests move."""

from __future__ import annotations

from app.platform.ports import SystemClock


class MovableClock(SystemClock):
    """The real clock, and some."""

    ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead
