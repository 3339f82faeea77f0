"""Inference slots: the calls the upstream works on concurrently; others wait in order."""

from __future__ import annotations

import asyncio
from collections import deque


class Slots:
    """A number of slots, or unlimited. Handed on in waiting order."""

    __slots__ = ("_taken", "_total", "_waiting")

    def __init__(self, total: int | None) -> None:
        """`total` None never lets anyone wait."""
        self._total = total
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Take a slot if one is free and nobody waits for it."""
        if self._waiting or not self._free():
            return False
        self._taken += 1
        return True

    def queue(self) -> asyncio.Future[None]:
        """Wait for a slot: the future completes when it is taken. Cancel it to leave."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        return place

    def leave(self, place: asyncio.Future[None]) -> None:
        """Leave the queue, passing on a slot that was just handed over."""
        if place.done() and not place.cancelled():
            self.give_back()
        place.cancel()

    def give_back(self) -> None:
        """Free a slot, for the next in the queue if there is one."""
        self._taken -= 1
        self._hand_out()

    def resize(self, total: int | None) -> None:
        """Change their number; those in use stay in use."""
        self._total = total
        self._hand_out()

    def _free(self) -> bool:
        return self._total is None or self._taken < self._total

    def _hand_out(self) -> None:
        while self._waiting and self._free():
            place = self._waiting.popleft()
            if not place.done():
                self._taken += 1
                place.set_result(None)
