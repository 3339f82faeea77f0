"""How much one receiving host may hold of a process that delivers callbacks to many.

A bounded number at once; after some failures in a row nothing for a while, then one at a time until it
answers. Instants here are monotonic seconds.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace

from app.callbacks.domain.callback import HostHealth
from app.platform.ports import Clock


@dataclass(frozen=True, slots=True)
class HostLimits:
    """What one host may take of one process."""

    at_once: int = 10
    failures: int = 5  # in a row, before it is left alone
    pause_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Host:
    """What is known of a host: deliveries in the air, failures in a row, and until when it is left alone."""

    flying: int = 0
    failures: int = 0
    paused_until: float = 0.0

    @property
    def idle(self) -> bool:
        """Nothing would be lost by forgetting it, once its pause is over."""
        return self.flying == 0 and self.failures == 0


@dataclass(frozen=True, slots=True)
class Go:
    """Send now; the host counts one more in the air."""

    host: Host


@dataclass(frozen=True, slots=True)
class AtCapacity:
    """As many are in the air as the host may have; one of those that end takes the next along."""


@dataclass(frozen=True, slots=True)
class Paused:
    """The host is left alone for this long."""

    seconds: float


def admit(host: Host, limits: HostLimits, now: float) -> Go | AtCapacity | Paused:
    """Decide whether one more delivery may start."""
    if now < host.paused_until:
        return Paused(host.paused_until - now)
    if host.flying >= room(host, limits):
        return AtCapacity()
    return Go(replace(host, flying=host.flying + 1))


def room(host: Host, limits: HostLimits) -> int:
    """How many may be in the air at once: one while the host has yet to show that it is back."""
    return 1 if host.failures >= limits.failures else limits.at_once


def arrive(
    host: Host, limits: HostLimits, health: HostHealth, now: float, pause_seconds: float = 0.0
) -> Host:
    """Take one delivery out of the air; `pause_seconds` is what its answer asked for."""
    failures = host.failures
    if health is HostHealth.GOOD:
        failures = 0
    elif health is HostHealth.BAD:
        failures += 1
    if failures >= limits.failures and health is HostHealth.BAD:
        pause_seconds = max(pause_seconds, limits.pause_seconds)
    until = max(host.paused_until, now + pause_seconds) if pause_seconds > 0 else host.paused_until
    return Host(host.flying - 1, failures, until)


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
