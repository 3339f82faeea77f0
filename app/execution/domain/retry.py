"""What becomes of a task after one call: a pure decision.

| outcome | the task |
|---|---|
| succeeded | ends |
| rate limited, overloaded | again at once with another key, or when the brake ends; does not count |
| unavailable, timed out, malformed | again after a backoff, with another key if there is one; counts |
| unauthorized, forbidden, no balance, unknown model | again with another key, or later; fails if it is at fault |
| invalid request, context too long | again with the fix that the upstream's words suggest, one at a time, else fails |
| context too long, content refused | then again at once if the model has a tier for it, else fails |
| too large | fails |
| returned | again at once, as if it had never been released |

A policy may bound refusals (429, 503), and let the task wait itself after each. Its `retry_on` asks again, after a
backoff, for answers that are empty, truncated or not the JSON asked for.

An answer of which the client has seen a part is never started anew: the task fails.

When is a refusal (401, 402, 403, 404) the request's own fault? A task remembers each key that refused it, among what it
avoids: `refused:<key>:<account>:<times>:<disproved>:<when>`. A refusal is disproved when another request has succeeded
with that key since the one before.

| refused with | the request's fault once |
|---|---|
| 403 | a second account refuses it, or a second key and no other is left, or one refusal is disproved |
| 403 | or the key's own test has succeeded since the refusal before |
| 404 | every key that could serve it refuses it |
| 401, 402 | two refusals are disproved: a dead key or an unpaid account is never the client's fault |

Until then it goes to a key that has not refused it, at once; else to one that has, after 1 s, 2 s, 4 s up to a minute.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal
from urllib.parse import quote, unquote

from app.pacing.domain.brake import DEFAULT_RESTS, BrakeDurations
from app.tasks.domain.attempt import AttemptEnd, Claimed, Finish, Outcome, Permit, TaskFailure, told_note
from app.tasks.domain.eligibility import FALLS, NOTE, upstream_note
from app.tasks.domain.task import Status
from app.upstreams.domain.classify import CallVerdict, UpstreamProfile
from app.upstreams.domain.request_parameters import next_fix

_NOTE = "refused:"
LONGEST_WAIT = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class KeyRefusals:
    """What a task remembers of one key that refused it."""

    key: str
    account: str
    count: int = 0
    disproved: int = 0
    at: float = float("inf")  # release of the last one, by the clock of the pacing store
    tested: bool = False  # the key's own test has succeeded since the refusal before


def remembered_refusals(notes: Iterable[str]) -> dict[str, KeyRefusals]:
    """The refusals among what a task avoids, by key; unreadable notes are skipped."""
    found = {}
    for note in notes:
        if note.startswith(_NOTE):
            try:
                key, account, count, disproved, at = map(unquote, note.removeprefix(_NOTE).split(":"))
                found[key] = KeyRefusals(key, account, int(count), int(disproved), float(at))
            except ValueError:
                continue
    return found


def add_refusal(refusals: dict[str, KeyRefusals], permit: Permit) -> KeyRefusals:
    """What is remembered of the permit's key after one more refusal."""
    before = refusals.get(permit.key, KeyRefusals(permit.key, permit.account))
    return KeyRefusals(
        permit.key,
        permit.account,
        before.count + 1,
        before.disproved + (permit.proved_at > before.at),
        permit.released_at,
        permit.tested_at > before.at,
    )


def refusal_note(latest: KeyRefusals) -> str:
    """As the task remembers it."""
    names = f"{quote(latest.key, safe='')}:{quote(latest.account, safe='')}"
    return f"{_NOTE}{names}:{latest.count}:{latest.disproved}:{latest.at:.3f}"


def without_key(notes: Iterable[str], latest: KeyRefusals) -> list[str]:
    """What a task avoids, without earlier refusals by the same key."""
    mine = f"{_NOTE}{quote(latest.key, safe='')}:"
    return [note for note in notes if not note.startswith(mine)]


def is_request_at_fault(outcome: Outcome, refusals: Collection[KeyRefusals], keys: Collection[str]) -> bool:
    """Whether the request itself was refused. `refusals`: one per key; `keys`: all that could serve it."""
    disproved = sum(latest.disproved for latest in refusals)
    no_key_left = {latest.key for latest in refusals} >= set(keys)
    if outcome is Outcome.UNKNOWN_MODEL:
        return no_key_left
    if outcome is not Outcome.FORBIDDEN:
        return disproved > 1
    accounts = {latest.account for latest in refusals}
    return (
        len(accounts) > 1
        or (no_key_left and len(refusals) > 1)
        or disproved > 0
        or any(latest.tested for latest in refusals)
    )


def refusal_wait(latest: KeyRefusals, refusals: Collection[KeyRefusals], keys: Collection[str]) -> float:
    """Seconds until the task may try again."""
    others_left = set(keys) - {one.key for one in refusals}
    if latest.count == 1 and others_left:
        return 0.0
    return float(min(LONGEST_WAIT, 2.0 ** min(latest.count - 1, 10)))


_WAITS = frozenset({Outcome.RATE_LIMITED, Outcome.OVERLOADED})
_COUNTS = frozenset({Outcome.UNAVAILABLE, Outcome.TIMED_OUT, Outcome.MALFORMED})
_ELSEWHERE = frozenset({Outcome.UNAUTHORIZED, Outcome.FORBIDDEN, Outcome.NO_BALANCE, Outcome.UNKNOWN_MODEL})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`attempts`: counted ones in all. Waits start at `base` seconds and double up to `cap`, and are never below `min`.

    `jitter`: "full" draws between `min` and the wait; a fraction such as 0.1 draws within that part of it to either
    side, never above `cap`.
    """

    attempts: int = 5
    base: float = 1.0
    cap: float = 32.0
    jitter: Literal["full"] | float = "full"
    retry_on: frozenset[str] = frozenset()  # answers to ask for again: see ASKED_AGAIN
    min: float = 0.0
    refusals: int | None = (
        None  # calls that may be refused with 429 or 503; None: any number until the deadline
    )
    waits_when_refused: bool = False  # after a 429 or 503 the task waits itself, though another key were free
    timeout: float | None = None  # seconds of one call; None: its model's, else its upstream's

    def delay(self, failures: int, chance: float) -> float:
        """Seconds to wait after `failures` counted ones (at least 1). `chance` lies in [0, 1)."""
        wait = max(self.min, min(self.cap, self.base * 2.0 ** min(failures - 1, 64)))
        if self.jitter == "full":
            return self.min + (wait - self.min) * chance
        return max(self.min, min(self.cap, wait * (1 + self.jitter * (2 * chance - 1))))


@dataclass(frozen=True, slots=True)
class RetryContext:
    """What else a decision depends on.

    `keys`: those that may serve the model at all; `chance` lies in [0, 1); `now`: Unix seconds.
    """

    policy: RetryPolicy
    keys: Collection[str]
    now: float
    chance: float
    shown: bool = False  # part of the answer has reached the client: it cannot be started anew
    falls: Collection[str] = ()  # what the model's fallback tiers are for, see eligibility.py


def decide(claimed: Claimed, verdict: CallVerdict, at: RetryContext) -> AttemptEnd:
    """How this attempt ends, and what becomes of its row."""
    ending = _decide(claimed, verdict, at)
    if at.shown and ending.status is Status.QUEUED:
        ending = replace(ending, status=Status.FAILED, available_at=None, failure=failure_of(verdict))
    if ending.status is Status.FAILED and (verdict.param or verdict.code):
        return _avoiding(ending, told_note(verdict.param, verdict.code))
    return ending


def _decide(claimed: Claimed, verdict: CallVerdict, at: RetryContext) -> AttemptEnd:
    ending = _common(claimed, verdict, at.now)
    outcome = verdict.outcome
    if outcome is Outcome.SUCCEEDED:
        return _answered(ending, verdict, at)
    if outcome is Outcome.RETURNED:
        return replace(ending, status=Status.QUEUED, available_at=at.now)
    if outcome in _WAITS:
        return _refused(ending, verdict, at)
    if outcome in _COUNTS:
        return _counted(ending, verdict, at)
    if outcome in _ELSEWHERE:
        return _elsewhere(ending, verdict, at)
    return _fixed(ending, verdict, at)


def _common(claimed: Claimed, verdict: CallVerdict, now: float) -> AttemptEnd:
    return AttemptEnd(
        claimed=claimed,
        outcome=verdict.outcome,
        status=Status.FAILED,
        finished_at=now,
        called=verdict.called,
        avoid=claimed.avoid,
        usage=verdict.usage if verdict.called else None,
        simulated=verdict.simulated,
        status_code=verdict.status_code,
        error_message=verdict.message or None,
        upstream_request_id=verdict.upstream_request_id,
        sent_at=verdict.sent_at,
        first_byte_at=verdict.first_byte_at,
    )


def _again(ending: AttemptEnd, verdict: CallVerdict, at: RetryContext, available_at: float) -> AttemptEnd:
    """Back to the queue, or expired if its deadline has passed."""
    if at.now >= ending.claimed.expires_at:
        return replace(ending, status=Status.EXPIRED, failure=_expired(verdict))
    return replace(ending, status=Status.QUEUED, available_at=available_at)


def _refused(ending: AttemptEnd, verdict: CallVerdict, at: RetryContext) -> AttemptEnd:
    """The brake holds the quota, not the task: another key may serve it now.

    A limit concerns one key or account; a lack of capacity the whole upstream.
    """
    permit, refused = ending.claimed.permit, ending.claimed.attempts - ending.claimed.counted + 1
    if at.policy.refusals is not None and refused >= at.policy.refusals:
        return replace(ending, failure=failure_of(verdict))
    notes = (upstream_note(permit.upstream),) if verdict.outcome is Outcome.OVERLOADED else ()
    wait = 0.0
    if at.policy.waits_when_refused:
        wait = max(at.policy.delay(refused, at.chance), _asked(verdict, at.chance))
    return _again(_avoiding(ending, permit.key, *notes), verdict, at, at.now + wait)


def _counted(ending: AttemptEnd, verdict: CallVerdict, at: RetryContext) -> AttemptEnd:
    failures = ending.claimed.counted + 1
    ending = replace(ending, counts=True)
    if failures >= at.policy.attempts:
        return replace(ending, failure=failure_of(verdict))
    wait = max(at.policy.delay(failures, at.chance), _asked(verdict, at.chance))
    permit = ending.claimed.permit
    return _again(_avoiding(ending, permit.key, upstream_note(permit.upstream)), verdict, at, at.now + wait)


# What `retry_on` may name, and the answers that it means.
ASKED_AGAIN = {
    "empty": (Finish.EMPTY, Finish.REASONING_ONLY),
    "invalid_json": (Finish.INVALID_JSON,),
    "truncated": (Finish.TRUNCATED,),
    "refused": (Finish.REFUSED,),
}


def _answered(ending: AttemptEnd, verdict: CallVerdict, at: RetryContext) -> AttemptEnd:
    """It ends, unless its policy asks again for an answer like this and there is a try and time left.

    The last answer is kept as it is, since it was paid for.
    """
    failures = ending.claimed.counted + 1
    unwanted = any(verdict.finish in ASKED_AGAIN[name] for name in at.policy.retry_on)
    again_at = at.now + at.policy.delay(failures, at.chance)
    is_last = failures >= at.policy.attempts or again_at >= ending.claimed.expires_at
    if not unwanted or is_last or at.shown:
        finished = replace(ending, status=Status.SUCCEEDED, counts=True, result=verdict.result)
        return replace(finished, finish=verdict.finish)
    permit, words = ending.claimed.permit, f"The answer was {verdict.finish}; asked for again."
    again = _avoiding(ending, permit.key, upstream_note(permit.upstream))
    return replace(again, status=Status.QUEUED, counts=True, available_at=again_at, error_message=words)


def _asked(verdict: CallVerdict, chance: float) -> float:
    """What the upstream asked for, plus up to a tenth, so that not all return at once."""
    return (verdict.retry_after_seconds or 0.0) * (1 + chance / 10)


def _elsewhere(ending: AttemptEnd, verdict: CallVerdict, at: RetryContext) -> AttemptEnd:
    """Try keys that have not refused it, at once; if no key is at fault, the request is."""
    permit = ending.claimed.permit
    before = remembered_refusals(ending.avoid)
    latest = add_refusal(before, permit)
    refusals = [*(one for one in before.values() if one.key != latest.key), latest]
    if is_request_at_fault(verdict.outcome, refusals, at.keys):
        return _fall_back(ending, verdict, at)
    kept = replace(ending, avoid=tuple(without_key(ending.avoid, latest)))
    wait = refusal_wait(latest, refusals, at.keys)
    return _again(_avoiding(kept, permit.key, refusal_note(latest)), verdict, at, at.now + wait)


def _fixed(ending: AttemptEnd, verdict: CallVerdict, at: RetryContext) -> AttemptEnd:
    claimed = ending.claimed
    found = next_fix(claimed.request, verdict.fixes, ending.avoid, streamed=claimed.stream)
    if found is None:
        return _fall_back(ending, verdict, at)
    return _again(_avoiding(ending, str(found)), verdict, at, at.now)


def _fall_back(ending: AttemptEnd, verdict: CallVerdict, at: RetryContext) -> AttemptEnd:
    """To the tier for this outcome, once; without one, the task fails."""
    for name, outcome in FALLS.items():
        note = f"{NOTE}{name}"
        if outcome is verdict.outcome and name in at.falls and note not in ending.avoid:
            return _again(_avoiding(ending, note), verdict, at, at.now)
    failed = replace(ending, counts=True, failure=failure_of(verdict))
    return replace(failed, result=verdict.result, finish=verdict.finish)


def _avoiding(ending: AttemptEnd, *notes: str) -> AttemptEnd:
    return replace(ending, avoid=tuple(dict.fromkeys((*ending.avoid, *notes))))


_FAILURES = {
    Outcome.UNAVAILABLE: ("upstream_error", "upstream_unavailable"),
    Outcome.TIMED_OUT: ("upstream_error", "upstream_timeout"),
    Outcome.MALFORMED: ("upstream_error", "upstream_malformed"),
    Outcome.RESPONSE_TOO_LARGE: ("upstream_error", "response_too_large"),
    Outcome.INVALID_REQUEST: ("invalid_request_error", "invalid_request"),
    Outcome.CONTENT_REFUSED: ("invalid_request_error", "content_filter"),
    Outcome.CONTEXT_TOO_LONG: ("invalid_request_error", "context_length_exceeded"),
    Outcome.FORBIDDEN: ("permission_error", "request_forbidden"),
    Outcome.UNAUTHORIZED: ("invalid_request_error", "request_unauthorized"),
    Outcome.NO_BALANCE: ("invalid_request_error", "request_unpaid"),
    Outcome.UNKNOWN_MODEL: ("invalid_request_error", "model_not_found"),
    Outcome.RETURNED: ("server_error", "interrupted"),
}


def failure_of(verdict: CallVerdict) -> TaskFailure:
    """The error for the client: our code, the upstream's message."""
    kind, code = _FAILURES.get(verdict.outcome, ("upstream_error", str(verdict.outcome)))
    return TaskFailure(kind, code, verdict.message or f"The upstream call ended as {verdict.outcome}.")


def _expired(verdict: CallVerdict) -> TaskFailure:
    last = f"The task's deadline has passed. Its last call: {verdict.message or verdict.outcome}"
    return TaskFailure("expired_error", "expired", last)


@dataclass(frozen=True, slots=True)
class ModelRetryPolicy:
    """How tasks of a model are retried, and which keys can serve it at all."""

    retry: str
    keys: frozenset[str]
    falls: frozenset[str] = frozenset()  # what its fallback tiers are for
    timeout: float | None = None  # seconds of one call; None: its upstream's


_BARE = UpstreamProfile()


@dataclass(frozen=True, slots=True)
class Policies:
    """Retry policies and models by name, upstreams' profiles. `retries` holds "default"."""

    retries: Mapping[str, RetryPolicy]
    models: Mapping[str, ModelRetryPolicy]
    rests: BrakeDurations = DEFAULT_RESTS
    profiles: Mapping[str, UpstreamProfile] = field(default_factory=dict)  # by upstream

    def profile_of(self, upstream: str) -> UpstreamProfile:
        """What an upstream says and accepts; without a profile only statuses count."""
        return self.profiles.get(upstream, _BARE)

    def retry_of(self, claimed: Claimed) -> RetryPolicy:
        """The policy that the request names, else its model's, else the default."""
        model = self.models.get(claimed.model)
        name = claimed.retry or (model.retry if model else "default")
        return self.retries.get(name) or self.retries["default"]

    def timeout_of(self, claimed: Claimed) -> float | None:
        """Seconds of one call, by its policy, else by its model; None: by its upstream."""
        own = self.retry_of(claimed).timeout
        model = self.models.get(claimed.model)
        return own if own is not None or model is None else model.timeout

    def keys_of(self, claimed: Claimed) -> frozenset[str]:
        """The keys that may serve the task's model."""
        model = self.models.get(claimed.model)
        return model.keys if model else frozenset({claimed.permit.key})

    def falls_of(self, claimed: Claimed) -> frozenset[str]:
        """What the model's fallback tiers are for."""
        model = self.models.get(claimed.model)
        return model.falls if model else frozenset()
