"""Keep receiving hosts apart, so that a slow or failing one never blocks a process that delivers to many.

A host may have a bounded number of deliveries in flight; after some failures in a row it gets nothing for a while, then
one at a time until it answers. Instants are monotonic seconds.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace

from app.callbacks.domain.callback import HostHealth
from app.platform.ports import Clock


@dataclass(frozen=True, slots=True)
class HostLimits:
    """Limits of one host in one process."""

    at_once: int = 10
    failures: int = 5  # in a row, before it is paused
    pause_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Host:
    """The state of a host: deliveries in flight, failures in a row, and the end of its pause."""

    in_flight: int = 0
    failures: int = 0
    paused_until: float = 0.0

    @property
    def idle(self) -> bool:
        """Whether it may be forgotten once its pause is over."""
        return self.in_flight == 0 and self.failures == 0


@dataclass(frozen=True, slots=True)
class Go:
    """Send now; the host counts one more in flight."""

    host: Host


@dataclass(frozen=True, slots=True)
class AtCapacity:
    """The host's limit is in flight; whichever ends next continues with the queue."""


@dataclass(frozen=True, slots=True)
class Paused:
    """The host is paused for this long."""

    seconds: float


def admit(host: Host, limits: HostLimits, now: float) -> Go | AtCapacity | Paused:
    """Decide whether one more delivery may start."""
    if now < host.paused_until:
        return Paused(host.paused_until - now)
    if host.in_flight >= room(host, limits):
        return AtCapacity()
    return Go(replace(host, in_flight=host.in_flight + 1))


def room(host: Host, limits: HostLimits) -> int:
    """How many may be in flight at once: one until a failing host has answered again."""
    return 1 if host.failures >= limits.failures else limits.at_once


def arrive(
    host: Host, limits: HostLimits, health: HostHealth, now: float, pause_seconds: float = 0.0
) -> Host:
    """End one delivery; `pause_seconds` is what its reply asked for."""
    failures = host.failures
    if health is HostHealth.GOOD:
        failures = 0
    elif health is HostHealth.BAD:
        failures += 1
    if failures >= limits.failures and health is HostHealth.BAD:
        pause_seconds = max(pause_seconds, limits.pause_seconds)
    until = max(host.paused_until, now + pause_seconds) if pause_seconds > 0 else host.paused_until
    return Host(host.in_flight - 1, failures, until)


MAX_QUEUED = 20_000  # callbacks of all hosts together, an id each
OVERFLOW_SECONDS = 5.0  # by which callbacks beyond that are postponed
FORGET_ABOVE = 10_000  # hosts


@dataclass(slots=True)
class _HostSlot:
    host: Host = field(default_factory=Host)
    queue: OrderedDict[str, None] = field(default_factory=OrderedDict)  # ids of callbacks not claimed yet


class HostConcurrencyLimiter:
    """Limits what is in flight to each host, queues the rest, and pauses failing hosts. In memory, one for a process.

    Used by all threads; one lock guards every field. A host has a queue only while something is in flight to it, so
    some thread will always continue with it.
    """

    def __init__(self, clock: Clock, limits: HostLimits | None = None) -> None:
        self._clock = clock
        self._limits = limits or HostLimits()
        self._lock = threading.Lock()
        self._slots: dict[str, _HostSlot] = {}
        self._queued = 0
        self._closed = False

    def enter(self, name: str, callback_id: str) -> Go | AtCapacity | Paused:
        """Ask to send. Go: in flight until `leave`. AtCapacity: queued for `take_next`. Paused: postpone it."""
        with self._lock:
            slot = self._slot(name)
            decision = admit(slot.host, self._limits, self._clock.monotonic())
            if isinstance(decision, Go):
                slot.host = decision.host
            elif isinstance(decision, AtCapacity) and not self._enqueue(slot, callback_id):
                return Paused(OVERFLOW_SECONDS)
            return decision

    def leave(self, name: str, health: HostHealth, pause_seconds: float = 0.0) -> None:
        """End what `enter` allowed."""
        with self._lock:
            slot = self._slot(name)
            slot.host = arrive(slot.host, self._limits, health, self._clock.monotonic(), pause_seconds)

    def take_next(self, name: str) -> str | None:
        """The next in a host's queue, if it may go now or must be postponed; None: stop."""
        with self._lock:
            slot = self._slots.get(name)
            if slot is None or not slot.queue:
                return None
            if isinstance(admit(slot.host, self._limits, self._clock.monotonic()), AtCapacity):
                return None
            first, _ = slot.queue.popitem(last=False)
            self._queued -= 1
            return first

    def abandon(self, name: str) -> None:
        """Drop a host's queue, unless something in flight will continue with it: its rows are published again."""
        with self._lock:
            slot = self._slots.get(name)
            if slot is not None and slot.host.in_flight == 0:
                self._queued -= len(slot.queue)
                slot.queue.clear()

    def close(self) -> None:
        """Drop all queues and accept none: this process is ending, other processes deliver the rest."""
        with self._lock:
            self._closed = True
            self._queued = 0
            for slot in self._slots.values():
                slot.queue.clear()

    def _enqueue(self, slot: _HostSlot, callback_id: str) -> bool:
        if callback_id in slot.queue:  # published twice
            return True
        if self._closed or self._queued >= MAX_QUEUED:
            return False
        slot.queue[callback_id] = None
        self._queued += 1
        return True

    def _slot(self, name: str) -> _HostSlot:
        if name not in self._slots and len(self._slots) >= FORGET_ABOVE:
            self._forget()
        return self._slots.setdefault(name, _HostSlot())

    def _forget(self) -> None:
        """Forget idle hosts that are not paused."""
        now = self._clock.monotonic()
        kept = (
            item for item in self._slots.items() if not item[1].host.idle or item[1].host.paused_until > now
        )
        self._slots = dict(kept)
