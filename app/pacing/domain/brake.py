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
PAUSING = frozenset({Outcome.RATE_LIMITED, Outcome.OVERLOADED})  # what passes when one waits


@dataclass(frozen=True, slots=True)
class BrakeDurations:
    """Seconds that a quota rests after a refusal that does not say how long: at first, and at most."""

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

    A pause that was told is never shortened: up to a tenth of it (50 ms at least, 10 s at most) is added.
    """
    quota = _quota(permit, verdict)
    if quota is None:
        return ()
    told = verdict.retry_after_seconds
    seconds = rests.base(verdict.outcome) if told is None else _spread(told, chance)
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
    """For people: the outcome and the status, never the upstream's words, which may quote a prompt."""
    status = f" ({verdict.status_code})" if verdict.status_code is not None else ""
    return f"{verdict.outcome}{status}"
