"""Why tasks wait, in words, and when about they will start."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from app.domain.instant import to_rfc3339
from app.domain.plan import Wait
from app.domain.quota import QuotaState
from app.domain.task import Hold

BREAKER_CLOSES = 0  # calls at once of what a breaker has closed


def in_words(wait: Wait, quotas: Mapping[str, QuotaState], reasons: Mapping[str, str], now: float) -> str:
    """What a model's tasks wait for. `reasons` says of quotas why they are braked; `now` is gate time."""
    if wait.reason == "slots":
        return "a free slot of a worker that consumes the key's queue"
    if wait.reason == "route":
        return "a tier that this task may use"
    state = quotas.get(wait.reason)
    if not wait.reason or state is None:
        return "its turn among the clients that wait"
    return f"{_binding(state, now, reasons.get(wait.reason, ''))} ({named(wait.reason)})"


def _binding(state: QuotaState, now: float, why: str) -> str:
    """Which limit of a quota holds."""
    if state.braked_until > now:
        return f"the end of a pause in {state.braked_until - now:.0f} s" + (f": {why}" if why else "")
    if state.cap == BREAKER_CLOSES:
        return "a breaker that is open" + (f": {why}" if why else "")
    if state.cap is not None and state.flight >= state.cap:
        return f"one of {state.cap} calls at once to end"
    if state.requests is not None and state.level < 1:
        return f"requests: {state.requests.rate * 60:.0f} a minute"
    if state.tokens is not None:
        return f"tokens: {state.tokens.rate * 60:.0f} a minute"
    return "its turn among the clients that wait"


def named(quota: str) -> str:
    """A quota's id in words: `account:acme:flash` is the account acme, model flash."""
    kind, _, rest = quota.partition(":")
    owner, _, model = rest.partition(":")
    return f"{kind} {owner}" + ("" if model in ("", "*") else f", model {model}")


def held_in_words(hold: int, available_at: float, now: float) -> str | None:
    """What a row that may not be fed waits for; None when it is not held."""
    if hold == Hold.UNTIL and available_at > now:
        return f"its time: it may run from {to_rfc3339(available_at)}"
    if hold == Hold.OFF_PEAK:
        return f"waits for off-peak hours, from {_clock(available_at)}"
    return _HELD.get(hold)


_HELD: Mapping[int, str] = {
    Hold.BATCH: "a place within its batch's batch_size",
    Hold.PAUSED: "the end of a pause: it is to be resumed",
    Hold.FOLLOWING: "the answer to an identical task that came before it",
    Hold.BUDGET: "room in its client's budget",
}


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M UTC")


def starts_in(ahead: int, rate: float | None, opens_in: float) -> float | None:
    """Seconds until about the start of a task with so many before it in its line.

    `rate` is the line's releases a second (None: nothing is known of it), `opens_in` when its model is open again; a
    pause that nobody can tell the end of counts as none, since the pace has met it already.
    """
    pause = opens_in if 0 < opens_in < float("inf") else 0.0
    if rate:
        return max(pause, ahead / rate) if pause < 1.0 else pause + ahead / rate
    return pause if ahead <= 0 and opens_in < float("inf") else None
