"""The log of admitted calls: a bounded ring, in columns to spare the garbage collector."""

from __future__ import annotations

import math
from array import array
from typing import Any

CAPACITY = 200_000


class CallLog:
    """Admitted calls by sequence number, from 1; the newest `capacity` are kept."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        """An empty log."""
        self._capacity = capacity
        self._arrived = array("d")
        self._duration = array("d")  # NaN while the call is in flight
        self._status = array("h")
        self._words: list[tuple[str, str, str]] = []  # key, account, model
        self._outcome: list[str | None] = []
        self._task: list[str | None] = []
        self._digest: list[bytes] = []
        self.last = 0

    def open(self, arrived_at: float, words: tuple[str, str, str], task: str | None, digest: bytes) -> int:
        """Write an admitted call and return its sequence number."""
        place = self.last % self._capacity
        self.last += 1
        if place == len(self._words):
            self._append()
        self._arrived[place] = arrived_at
        self._duration[place] = math.nan
        self._status[place] = 0
        self._words[place] = words
        self._outcome[place] = None
        self._task[place] = task
        self._digest[place] = digest
        return self.last

    def close(self, sequence: int, status: int, outcome: str, duration_seconds: float) -> None:
        """Complete a call's entry, if the ring still holds it."""
        if sequence <= self.last - self._capacity:
            return
        place = (sequence - 1) % self._capacity
        self._status[place] = status
        self._outcome[place] = outcome
        self._duration[place] = duration_seconds

    def after(self, sequence: int, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` entries with higher numbers, in order."""
        first = max(sequence, self.last - self._capacity, 0) + 1
        return [self._entry(number) for number in range(first, min(self.last, first + limit - 1) + 1)]

    def _append(self) -> None:
        self._arrived.append(0.0)
        self._duration.append(0.0)
        self._status.append(0)
        self._words.append(("", "", ""))
        self._outcome.append(None)
        self._task.append(None)
        self._digest.append(b"")

    def _entry(self, sequence: int) -> dict[str, Any]:
        place = (sequence - 1) % self._capacity
        key, account, model = self._words[place]
        duration = self._duration[place]
        return {
            "sequence": sequence,
            "arrived_at": self._arrived[place],
            "key": key,
            "account": account,
            "model": model,
            "status": self._status[place],
            "outcome": self._outcome[place],
            "duration": None if math.isnan(duration) else duration,
            "task": self._task[place],
            "prompt_sha256": self._digest[place].hex(),
        }
