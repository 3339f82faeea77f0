"""How much one receiving host may hold of a process that delivers callbacks to many.

A bounded number at once; after some failures in a row nothing for a while, then one at a time until it
answers. Instants here are monotonic seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from app.callbacks.domain.callback import HostHealth


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
