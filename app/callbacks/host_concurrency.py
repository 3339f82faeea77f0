"""Keep receiving hosts apart, so that one of them never holds a process: what is in the air for each of them,
what waits in line, and who is left alone for a while. Kept in memory, one for a process.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from app.callbacks.domain.callback import HostHealth
from app.callbacks.domain.callback_host import AtCapacity, Go, Host, HostLimits, Paused, admit, arrive
from app.platform.ports import Clock

MOST_IN_LINE = 20_000  # callbacks, of all hosts together; an id each
OVERFLOW_SECONDS = 5.0  # what comes on top is put off
FORGET_ABOVE = 10_000  # hosts


@dataclass(slots=True)
class _HostSlot:
    host: Host = field(default_factory=Host)
    line: OrderedDict[str, None] = field(default_factory=OrderedDict)  # callback ids, not claimed


class HostConcurrencyLimiter:
    """May be used by many threads. A line is never left alone: it is only there while something is in the air."""

    def __init__(self, clock: Clock, limits: HostLimits | None = None) -> None:
        self._clock = clock
        self._limits = limits or HostLimits()
        self._lock = threading.Lock()
        self._seats: dict[str, _HostSlot] = {}
        self._in_line = 0
        self._closed = False

    def enter(self, name: str, callback_id: str) -> Go | AtCapacity | Paused:
        """Ask to send. Go: one more is in the air, `leave` ends it. Crowded: it waits in line for `take_next`."""
        with self._lock:
            seat = self._seat(name)
            decision = admit(seat.host, self._limits, self._clock.monotonic())
            if isinstance(decision, Go):
                seat.host = decision.host
            elif isinstance(decision, AtCapacity) and not self._stand_in_line(seat, callback_id):
                return Paused(OVERFLOW_SECONDS)
            return decision

    def leave(self, name: str, health: HostHealth, pause_seconds: float = 0.0) -> None:
        """End what `enter` allowed."""
        with self._lock:
            seat = self._seat(name)
            seat.host = arrive(seat.host, self._limits, health, self._clock.monotonic(), pause_seconds)

    def take_next(self, name: str) -> str | None:
        """Who comes next in a host's line, if it may go now or must be put off; None to leave."""
        with self._lock:
            seat = self._seats.get(name)
            if seat is None or not seat.line:
                return None
            if isinstance(admit(seat.host, self._limits, self._clock.monotonic()), AtCapacity):
                return None
            first, _ = seat.line.popitem(last=False)
            self._in_line -= 1
            return first

    def abandon(self, name: str) -> None:
        """Forget a host's line, unless something in the air will take it along: its rows are rung again."""
        with self._lock:
            seat = self._seats.get(name)
            if seat is not None and seat.host.flying == 0:
                self._in_line -= len(seat.line)
                seat.line.clear()

    def close(self) -> None:
        """Forget the lines and let nobody stand in one: this process ends, the rows are rung again elsewhere."""
        with self._lock:
            self._closed = True
            self._in_line = 0
            for seat in self._seats.values():
                seat.line.clear()

    def _stand_in_line(self, seat: _HostSlot, callback_id: str) -> bool:
        if callback_id in seat.line:  # rung twice
            return True
        if self._closed or self._in_line >= MOST_IN_LINE:
            return False
        seat.line[callback_id] = None
        self._in_line += 1
        return True

    def _seat(self, name: str) -> _HostSlot:
        if name not in self._seats and len(self._seats) >= FORGET_ABOVE:
            self._forget()
        return self._seats.setdefault(name, _HostSlot())

    def _forget(self) -> None:
        """Drop hosts of which nothing is known that matters."""
        now = self._clock.monotonic()
        kept = (
            item for item in self._seats.items() if not item[1].host.idle or item[1].host.paused_until > now
        )
        self._seats = dict(kept)
