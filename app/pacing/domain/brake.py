"""Which quotas an outcome brakes, and for how long.

One that is not about a rate (401, 402, 403, 404) brakes nothing: what it says of a key is for refusals.py to judge.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.settings.domain.routing import ANY, account_quota, key_quota, upstream_quota
from app.tasks.domain.attempt import Brake, Outcome, Permit
from app.upstreams.domain.classify import CallVerdict
from app.upstreams.domain.upstream_error import LimitScope

MOST_JITTER_SECONDS = 10.0
PAUSING = frozenset({Outcome.RATE_LIMITED, Outcome.OVERLOADED})  # what passes with time


@dataclass(frozen=True, slots=True)
class BrakeDurations:
    """Seconds that a quota is braked after a refusal without Retry-After: at first, and at most."""

    rate_limited: float = 1.0
    overloaded: float = 1.0
    longest: float = 32.0

    def base(self, outcome: Outcome) -> float:
        """The first pause after such a refusal."""
        return self.overloaded if outcome is Outcome.OVERLOADED else self.rate_limited


DEFAULT_RESTS = BrakeDurations()


def brakes(
    permit: Permit, verdict: CallVerdict, chance: float, rests: BrakeDurations = DEFAULT_RESTS
) -> tuple[Brake, ...]:
    """The brakes that a verdict calls for. `chance` lies in [0, 1) and spreads returns after a pause.

    A pause that the upstream asks for is never shortened; up to a tenth of it (between 50 ms and 10 s) is added.
    """
    quota = _quota(permit, verdict)
    if quota is None:
        return ()
    asked = verdict.retry_after_seconds
    seconds = rests.base(verdict.outcome) if asked is None else _spread(asked, chance)
    return (Brake(quota, seconds, _reason(verdict)),)


def _spread(seconds: float, chance: float) -> float:
    return seconds + chance * min(max(0.05, seconds / 10), MOST_JITTER_SECONDS)


def _quota(permit: Permit, verdict: CallVerdict) -> str | None:
    match verdict.outcome:
        case Outcome.RATE_LIMITED:
            return _named(permit, verdict.scope)
        case Outcome.OVERLOADED:
            return account_quota(permit.account, permit.upstream_model)
        case _:
            return None


def _named(permit: Permit, scope: LimitScope) -> str:
    return {
        LimitScope.MODEL: account_quota(permit.account, permit.upstream_model),
        LimitScope.KEY_MODEL: key_quota(permit.key, permit.upstream_model),
        LimitScope.KEY: key_quota(permit.key, ANY),
        LimitScope.ACCOUNT: account_quota(permit.account, ANY),
        LimitScope.PROVIDER: upstream_quota(permit.upstream),
    }[scope]


def _reason(verdict: CallVerdict) -> str:
    """The outcome and the status, never the upstream's message, which may quote a prompt."""
    status = f" ({verdict.status_code})" if verdict.status_code is not None else ""
    return f"{verdict.outcome}{status}"


_JITTER = 0.1  # by which a pause may be shorter, so that quotas of one upstream do not return together


@dataclass(slots=True)
class RefusalStreak:
    """A quota's refusals in a row, without a success between them. All instants are pacing time."""

    pauses: int = 0  # in a row
    began: float = -1e18  # when the first refusal came back
    paused_at: float = -1e18  # when the last pause began
    pause: float = 0.0  # seconds that it lasts
    sent_at: float = -1e18  # the last release since
    is_kept: bool = False  # worth storing: more than one pause, or their end

    @property
    def stands(self) -> bool:
        """Whether calls are released one by one."""
        return self.pauses > 0

    def refused(
        self, released_at: float, at: float, base: float, longest: float, chance: float
    ) -> float | None:
        """Seconds from `at` during which nothing may be released; None if the present pause is enough.

        `chance` lies in [0, 1).
        """
        if not self._is_new(released_at, at):
            return None
        self.pauses += 1
        self.is_kept = self.is_kept or self.pauses > 1
        self.pause = pause_after(self.pauses, base, longest, chance)
        return self.pause if self.pauses > 1 else None  # the refused worker began the first one

    def refused_for(self, released_at: float, at: float, seconds: float) -> None:
        """Refused with Retry-After: that pause is kept, and does not count as one of ours."""
        if self._is_new(released_at, at):
            self.pauses, self.pause = max(1, self.pauses), seconds

    def succeeded(self, released_at: float) -> None:
        """A call succeeded."""
        self.pauses = min(self.pauses, 1) if released_at <= self.began and self.pauses > 1 else 0

    def released(self, at: float) -> None:
        """A call was released."""
        self.sent_at = at

    def room(self, now: float, flight: int) -> int:
        """How many more calls may be released now."""
        return int(flight == 0 or self.sent_at <= self.paused_at or now - self.sent_at >= self.pause)

    def look(self, now: float) -> None:
        """Pacing time may go back, when Redis is restored from an older file: what lies ahead then counts from now."""
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
    """Seconds to pause after so many refusals in a row (from 1): doubled each time, at most `longest` (or `base`)."""
    return min(max(base, longest), base * 2.0 ** min(refusals - 1, 64)) * (1 - _JITTER * chance)
