"""Why tasks wait, in words, and about when they will start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from app.pacing.domain.plan import Wait
from app.platform.domain.times import to_rfc3339
from app.settings.domain.routing import QuotaState
from app.tasks.domain.task import Hold

NO_LEADER = "a dispatcher: none has reported for 10 seconds"
NO_REDIS = "Redis: it does not answer, and nothing starts without it"
BREAKER_CLOSES = 0  # calls at once of what a breaker has closed


class Bound(StrEnum):
    """What kind of limit a model's tasks wait for."""

    PAUSED = "paused"  # by an operator
    SLOTS = "slots"  # of workers
    ROUTE = "route"  # no tier may be used
    DISABLED = "disabled"  # the upstream refuses every key that could serve
    BRAKED = "braked"
    BREAKER = "breaker"
    PROBE = "probe"  # after a pause: one test call shows whether it is over
    PACE = "pace"  # the adaptive rate, which follows response times
    CALLS = "calls"
    REQUESTS = "requests"
    TOKENS = "tokens"
    TURN = "turn"  # no limit: other tasks come first


@dataclass(frozen=True, slots=True)
class Binding:
    """The limit, its quota or key, its value, and the reason as its source gave it."""

    bound: Bound
    subject: str = ""
    figure: float | None = None  # concurrent calls, calls per minute or tokens per minute
    why: str = ""
    seconds: float | None = None  # until it opens, where that is known


def binding_of(
    wait: Wait, quotas: Mapping[str, QuotaState], reasons: Mapping[str, str], now: float
) -> Binding:
    """What a model's tasks wait for. `reasons` says of quotas why they are braked; `now` is pacing time."""
    if wait.shut is not None:
        return Binding(
            Bound.PAUSED if wait.shut.by_operator else Bound.DISABLED, wait.reason, why=wait.shut.words
        )
    if wait.reason in (Bound.SLOTS, Bound.ROUTE):
        return Binding(Bound(wait.reason))
    state = wait.state or quotas.get(wait.reason)
    if not wait.reason or state is None:
        return Binding(Bound.TURN)
    return _binding(wait.reason, state, now, reasons.get(wait.reason, ""))


def _binding(name: str, state: QuotaState, now: float, why: str) -> Binding:
    """Which limit of a quota applies."""
    if state.cap == BREAKER_CLOSES or state.judged == Bound.BREAKER:
        return Binding(Bound.BREAKER, name, why=why)
    if state.braked_until > now:
        return Binding(Bound.BRAKED, name, why=why, seconds=state.braked_until - now)
    if state.cap is not None and state.flight >= state.cap:
        probes = state.judged == Bound.PROBE
        return Binding(Bound.PROBE, name, why=why) if probes else Binding(Bound.CALLS, name, float(state.cap))
    if state.requests is not None and state.level < 1:
        paced = Bound.PACE if state.judged == Bound.PACE else Bound.REQUESTS
        return Binding(paced, name, state.requests.rate * 60)
    if state.tokens is not None:
        return Binding(Bound.TOKENS, name, state.tokens.rate * 60)
    return Binding(Bound.TURN)


def in_words(binding: Binding) -> str:
    """The limit as text that completes "waiting for ..."."""
    why = binding.why.removeprefix("breaker open: ")  # the limit is named before it
    because = f": {why}" if why else ""
    match binding.bound:
        case Bound.PAUSED | Bound.DISABLED:
            return binding.why
        case Bound.SLOTS:
            return "a free worker slot"
        case Bound.ROUTE:
            return "a tier that this task may use"
        case Bound.TURN:
            return "its turn"
        case Bound.BRAKED:
            said = f"the end of a pause in {binding.seconds:.0f} s{because}"
        case _:
            said = _OF_QUOTAS[binding.bound].format(figure=binding.figure or 0.0, because=because)
    return f"{said} ({named(binding.subject)})"


_OF_QUOTAS: Mapping[Bound, str] = {
    Bound.BREAKER: "an open circuit breaker{because}",
    Bound.PROBE: "the answer to a test call after a pause{because}",
    Bound.PACE: "its adaptive rate of {figure:.0f} requests per minute",
    Bound.CALLS: "one of {figure:.0f} concurrent calls to finish",
    Bound.REQUESTS: "its limit of {figure:.0f} requests per minute",
    Bound.TOKENS: "its limit of {figure:.0f} tokens per minute",
}


def named(quota: str) -> str:
    """A quota's id in words: `account:acme:flash` is the account acme, model flash."""
    kind, _, rest = quota.partition(":")
    owner, _, model = rest.partition(":")
    return f"{kind} {owner}" + ("" if model in ("", "*") else f", model {model}")


def held_in_words(
    hold: int,
    available_at: float,
    now: float,
    *,
    attempts: int = 0,
    batch_paused: bool = False,
    code: str | None = None,
) -> str | None:
    """What a held row waits for; None when it is not held.

    `attempts` counts the calls made for it. A row that waits for a slot in a paused batch waits for both.
    `code` says why it was put off, see `key_missing`.
    """
    if hold == Hold.PAUSED or (hold == Hold.BATCH and batch_paused):
        return "its paused batch to be resumed"
    if hold == Hold.UNTIL and (key := (code or "").removeprefix(_KEY_MISSING)) != (code or ""):
        return f"the content key {key}: add a reference to its secret to [storage] previous_keys"
    if hold == Hold.UNTIL and available_at > now:
        what = f"its next attempt, after {attempts} so far," if attempts else "its scheduled time,"
        return f"{what} at {to_rfc3339(available_at)}"
    if hold == Hold.OFF_PEAK:
        return f"off-peak hours, from {_clock(available_at)}"
    return _HELD.get(hold)


def key_missing(key_id: str) -> str:
    """The code of a task whose content was encrypted by a key that its worker does not have."""
    return f"{_KEY_MISSING}{key_id}"


_KEY_MISSING = "content_key_missing:"
_HELD: Mapping[int, str] = {
    Hold.BATCH: "a slot within its batch's batch_size",
    Hold.FOLLOWING: "the answer to an identical earlier task",
    Hold.BUDGET: "room in its client's budget",
}


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M UTC")


def starts_in(ahead: int, rate: float | None, opens_in: float) -> float | None:
    """About how many seconds until a task starts that has `ahead` tasks before it in its queue.

    `rate`: releases per second of the queue (None: unknown). `opens_in`: seconds until its model accepts calls again; a
    pause of unknown length counts as none, because the rate already reflects it.
    """
    pause = opens_in if 0 < opens_in < float("inf") else 0.0
    if rate:
        return max(pause, ahead / rate) if pause < 1.0 else pause + ahead / rate
    return pause if ahead <= 0 and opens_in < float("inf") else None
