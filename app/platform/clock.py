"""The real clock."""

from __future__ import annotations

import time


class SystemClock:
    """Wall time for what people read, monotonic time for what is measured."""

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some start; never steps."""
        return time.monotonic()
