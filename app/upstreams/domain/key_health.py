"""The health of keys and accounts: what calls and tests show, and which tests are due. Pure.

    active --(401 again with no success between, or to the key's test)--> disabled
    active --(402, insufficient_quota; the same)--> no_balance
    active --(two health checks in a row get no answer or a 5xx)--> unreachable
    unreachable --(a check passes, a call succeeds)--> active
    disabled, no_balance --(a call succeeds, or a test after one that refused)--> active

One refused request closes nothing (see refusals.py): its key is tested at once. What calls close is closed to the
clients that were refused; others may try it, one call at a time, and a success opens it to all. What refuses several
clients is closed to all. A successful test proves something only after one that was refused, and never where the list
of models is open to anybody; otherwise one waiting call serves as the test when it is due. Endpoints are probed soon
after the start and after a while without calls, so that a fault is noticed before a task meets it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from app.settings.domain.routing import ANY, account_quota, key_quota
from app.tasks.domain.attempt import Outcome
from app.tasks.domain.pauses import Suspension
from app.upstreams.domain.refusals import REFUSALS, HeardCall, Reach, Refusals


class Condition(StrEnum):
    """Whether a key or an account may be used."""

    ACTIVE = "active"
    DISABLED = "disabled"
    NO_BALANCE = "no_balance"
    UNREACHABLE = "unreachable"  # of a key: health checks of its upstream fail


class Probe(StrEnum):
    """What a test requests."""

    MODELS = "models"  # GET /models
    BALANCE = "balance"  # GET /user/balance


class KeyTestResult(StrEnum):
    """The result of a test."""

    WORKS = "works"  # the key is valid; the balance is positive
    REFUSED = "refused"  # it is not
    NOT_OFFERED = "not_offered"  # the upstream has no such page
    NO_ANSWER = "no_answer"  # or none that says anything


@dataclass(frozen=True, slots=True)
class HealthRules:
    """Seconds."""

    retest: float = 30.0  # from a refusal to the first test, doubled for each further one ...
    longest: float = 900.0  # ... up to this
    idle: float = 300.0  # without a call, after which an endpoint is probed; 0: never


@dataclass(frozen=True, slots=True)
class Probed:
    """A finished test."""

    finding: KeyTestResult
    at: float
    seconds: float
    status: int | None = None
    words: str = ""  # ours, never the upstream's
    proves: bool = True  # False: what was asked for is open to everybody


_AT_WORK = (
    "",
    "active",
    "available",
    "enabled",
    "healthy",
    "loaded",
    "normal",
    "ok",
    "online",
    "ready",
    "running",
    "up",
)


def model_states(body: Any) -> dict[str, str]:
    """The models that a list offers, with what it says against each, such as "maintenance"; empty where nothing."""
    data = body.get("data") if isinstance(body, dict) else body
    rows = [row for row in data if isinstance(row, dict) and row.get("id")] if isinstance(data, list) else []
    states = {str(row["id"]).removeprefix("models/"): row.get("status") for row in rows}
    return {
        model: state if isinstance(state, str) and state.lower() not in _AT_WORK else ""
        for model, state in states.items()
    }


def judge_offer(body: Any, wanted: Iterable[str]) -> str:
    """What is wrong with the models configured for a key, by the upstream's list of models; empty if nothing."""
    states = model_states(body)
    if not states:
        return ""
    missing = [model for model in wanted if model.removeprefix("models/") not in states]
    resting = [f"{model} ({states[model]})" for model in wanted if states.get(model)]
    found = [f"its list of models lacks {', '.join(missing)}"] if missing else []
    return "; ".join(found + ([f"not available now: {', '.join(resting)}"] if resting else []))


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """The status of a key or an account. Instants are Unix seconds."""

    condition: Condition = Condition.ACTIVE
    reason: str = ""
    since: float = 0.0
    tests: int = 0  # since it was disabled
    next_test_at: float | None = None  # None while closed: the next call is the test
    last: Probed | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """A test that is due, of a key or (with one of its keys) of an account."""

    subject: str  # key:main, account:acme
    test: Probe
    key: str


@dataclass(frozen=True, slots=True)
class Held:
    """A key and what it belongs to."""

    name: str
    upstream: str
    account: str


@dataclass(frozen=True, slots=True)
class Proof:
    """When a key was last proved good, by the pacing store's clock: by a successful call, by its own test."""

    succeeded: float = 0.0
    tested: float = 0.0


NO_PROOFS: Mapping[str, Proof] = {}

FIRST_PROBE = 10.0  # seconds after the start

_BAD = {Outcome.UNAUTHORIZED: Condition.DISABLED, Outcome.NO_BALANCE: Condition.NO_BALANCE}
_WORDS = {
    Condition.DISABLED: "key {} is disabled: {}; it is tested again automatically",
    Condition.NO_BALANCE: "account {} has no balance left: {}; it is tested again automatically",
    Condition.UNREACHABLE: "the upstream of key {} fails its health checks: {}; it is checked again automatically",
}
_RECHECK = 5.0  # seconds after a failed health check, doubled up to 80 while its upstream is closed
_CHECKS = 3  # of a closed upstream that fail before one call at a time may try it
_REFUSED = "the upstream refuses it"  # for clients: an upstream's own words may quote another's request


@dataclass(slots=True)
class KeyHealth:
    """All keys and accounts. Owned by the leader's tick thread; time arrives as arguments (Unix seconds)."""

    keys: Mapping[str, Held]
    rules: HealthRules = field(default_factory=HealthRules)
    statuses: dict[str, KeyStatus] = field(default_factory=dict)
    refusals: Refusals = field(default_factory=Refusals)
    _called: dict[str, float] = field(default_factory=dict)  # by key: its last finished call or test
    _released: dict[str, float] = field(default_factory=dict)  # by subject: when it was opened
    _failing: dict[str, float] = field(default_factory=dict)  # by upstream: its first failed health check
    _belied: set[str] = field(default_factory=set)  # upstreams that served calls while their checks failed
    _accused: dict[str, set[str]] = field(
        default_factory=dict
    )  # by subject: the only clients it is closed to

    def heard(self, call: HeardCall) -> bool:
        """Take in a finished call. Returns whether it changed anything; one sent before the key was opened does not."""
        if call.key not in self.keys:
            return False
        self._called[call.key] = call.at
        if call.outcome is Outcome.SUCCEEDED:
            self._failing.pop(self.keys[call.key].upstream, None)
        subject = self._subject(call)
        if call.sent_at < self._released.get(subject, 0.0):
            return False
        cases = len(self.refusals.cases)
        reach = self.refusals.heard(call)
        if call.outcome is Outcome.SUCCEEDED:
            return self._proved(call) or len(self.refusals.cases) < cases
        if call.outcome in _BAD:
            self._refused(subject, call, reach)
        return call.outcome in REFUSALS

    def _subject(self, call: HeardCall) -> str:
        return f"account:{call.account}" if call.outcome is Outcome.NO_BALANCE else f"key:{call.key}"

    def _refused(self, subject: str, call: HeardCall, reach: Reach) -> None:
        """Close the subject to those who were refused, or to everybody."""
        before = self.statuses.get(subject, KeyStatus())
        if before.condition is Condition.ACTIVE:
            if reach is not Reach.EVERYBODY and not self.refusals.seems_dead(call):
                return
            self._close(subject, _BAD[call.outcome], call.at, _answered(call))
            self._accused[subject] = set(self.refusals.cases[call.subject].tasks)
        elif before.next_test_at is None:  # the one call that served as the test
            tests = before.tests + 1
            due = call.at + self._pause(tests)
            self.statuses[subject] = replace(
                before,
                tests=tests,
                next_test_at=due,
                reason=_reason(subject, before.condition, _answered(call)),
            )
        if reach is Reach.EVERYBODY:
            self._accused.pop(subject, None)
        elif subject in self._accused:
            self._accused[subject].add(call.client)

    def _close(self, subject: str, condition: Condition, at: float, why: str) -> None:
        last = self.statuses.get(subject, KeyStatus()).last
        words = _reason(subject, condition, why)
        self.statuses[subject] = KeyStatus(condition, words, at, 0, at + self._pause(0), last)

    def due(self, now: float) -> list[Order]:
        """The tests that are due."""
        return [*self._due_again(now), *self._due_doubted(now), *self._due_idle(now)]

    def tested(self, order: Order, test: Probed) -> bool:
        """Take in a finished test. Returns whether a condition changed."""
        self._called[order.key] = test.at
        before = self.statuses.get(order.subject, KeyStatus())
        if before.condition is Condition.ACTIVE:
            return self._probed(order, before, test)
        if before.condition is Condition.UNREACHABLE and test.finding is not KeyTestResult.NO_ANSWER:
            self._open(order.subject, test.at, test)
            return self._probed(order, self.statuses[order.subject], test) or True
        self.refusals.forget([_quota_of(order.subject)])
        if test.finding in (KeyTestResult.REFUSED, KeyTestResult.NO_ANSWER):
            tests = before.tests + 1
            unreachable = before.condition is Condition.UNREACHABLE
            pause = (
                min(self.rules.longest, _RECHECK * 2.0 ** min(tests, 4))
                if unreachable
                else self._pause(tests)
            )
            due = test.at + pause
            self.statuses[order.subject] = replace(before, tests=tests, next_test_at=due, last=test)
            if test.finding is KeyTestResult.REFUSED:
                self._accused.pop(order.subject, None)
            return False
        refused = before.last is not None and before.last.finding is KeyTestResult.REFUSED
        if refused and test.finding is KeyTestResult.WORKS and test.proves:
            self._open(order.subject, test.at, test)
        else:
            self._accused[order.subject] = set()
            self.statuses[order.subject] = replace(before, next_test_at=None, last=test)
        return True

    def give_back(self, key: str, now: float) -> bool:
        """Open a key at an operator's word; the next call shows whether it works."""
        held = self.keys[key]
        changed = False
        for subject in (f"key:{key}", f"account:{held.account}"):
            before = self.statuses.get(subject, KeyStatus())
            if before.condition is not Condition.ACTIVE:
                self._open(subject, now, before.last)
                changed = True
        mine = {key_quota(key, ANY), account_quota(held.account, ANY)}
        self.refusals.forget([n for n in self.refusals.cases if n in mine or n.startswith(f"key:{key}:")])
        return changed

    def _open(self, subject: str, at: float, last: Probed | None) -> None:
        """Open it to everybody; calls sent before are no evidence."""
        self.statuses[subject] = KeyStatus(since=at, last=last)
        self._released[subject] = at
        self._accused.pop(subject, None)

    @property
    def shut(self) -> dict[str, Suspension]:
        """Keys that nobody may use, by name."""
        bad = {subject: shut for subject, shut in self._bad.items() if not self._may_be_tried(subject)}
        found = {}
        for key, held in self.keys.items():
            shut = bad.get(f"key:{key}") or bad.get(f"account:{held.account}")
            if shut is not None:
                found[key] = shut
        return found

    @property
    def barred(self) -> dict[str, dict[str, Suspension]]:
        """What is closed to some clients, by client and quota."""
        found: dict[str, dict[str, Suspension]] = {}
        for subject, shut in self._bad.items():
            for client in self._accused.get(subject, ()):
                found.setdefault(client, {})[_quota_of(subject)] = shut
        return found

    @property
    def probed(self) -> dict[str, str]:
        """Why something is closed that may be tried, one call at a time; by quota."""
        bad = self._bad.items()
        return {_quota_of(subject): shut.words for subject, shut in bad if self._may_be_tried(subject)}

    def _may_be_tried(self, subject: str) -> bool:
        status = self.statuses[subject]
        if status.condition is Condition.UNREACHABLE:
            return status.tests >= _CHECKS  # its page may fail while calls work
        return subject in self._accused or status.next_test_at is None

    @property
    def _bad(self) -> dict[str, Suspension]:
        return {
            subject: Suspension(_reason(subject, one.condition, _REFUSED), by_operator=False)
            for subject, one in self.statuses.items()
            if one.condition is not Condition.ACTIVE
        }

    def _probed(self, order: Order, before: KeyStatus, test: Probed) -> bool:
        """A test of what is open. A balance page that refuses the key itself says nothing about the balance."""
        is_conclusive = order.test is Probe.MODELS or test.status == 200
        if test.finding is KeyTestResult.REFUSED and is_conclusive:
            self.statuses[order.subject] = replace(before, tests=0, last=test)
            found = Condition.DISABLED if order.test is Probe.MODELS else Condition.NO_BALANCE
            self._close(order.subject, found, test.at, test.words or _REFUSED)
            return True
        self.statuses[order.subject] = replace(before, last=test)
        return order.test is Probe.MODELS and self._checked(self.keys[order.key].upstream, test)

    def _checked(self, upstream: str, test: Probed) -> bool:
        """Close all keys of an upstream whose second check in a row fails. Returns whether that changed anything."""
        fails = test.finding is KeyTestResult.NO_ANSWER and (test.status is None or test.status >= 500)
        if not fails or upstream in self._belied:
            self._failing.pop(upstream, None)
            return False
        if upstream not in self._failing:
            self._failing[upstream] = test.at
            return False
        del self._failing[upstream]
        mine = [f"key:{key}" for key, held in self.keys.items() if held.upstream == upstream]
        active = [name for name in mine if self.statuses.get(name, KeyStatus()).condition is Condition.ACTIVE]
        for subject in active:
            self._close(subject, Condition.UNREACHABLE, test.at, test.words or "no answer")
            closed = self.statuses[subject]
            self.statuses[subject] = replace(closed, next_test_at=test.at + _RECHECK, last=test)
        return bool(active)

    def _proved(self, call: HeardCall) -> bool:
        """Open what a call that was sent since its closing has used with success."""
        changed = False
        for subject in (f"key:{call.key}", f"account:{call.account}"):
            status = self.statuses.get(subject, KeyStatus())
            if status.condition is not Condition.ACTIVE and call.sent_at >= status.since:
                if status.condition is Condition.UNREACHABLE:
                    self._belied.add(self.keys[call.key].upstream)
                self._open(subject, call.sent_at, status.last)
                changed = True
        return changed

    def _pause(self, tests: int) -> float:
        return float(min(self.rules.longest, self.rules.retest * 2.0 ** min(tests, 30)))

    def _due_again(self, now: float) -> Iterable[Order]:
        for subject, status in self.statuses.items():
            due = status.next_test_at
            if status.condition is Condition.ACTIVE or due is None or now < due:
                continue
            kind, _, name = subject.partition(":")
            if kind == "key" and name in self.keys:
                yield Order(subject, Probe.MODELS, name)
            key = next((k for k, held in self.keys.items() if held.account == name), None)
            if kind == "account" and key is not None:
                yield Order(subject, Probe.BALANCE, key)

    def _due_doubted(self, now: float) -> Iterable[Order]:
        """What has refused a request and may be dead."""
        for case in self.refusals.doubted(now):
            call = case.call
            account = call.outcome is Outcome.NO_BALANCE
            subject = f"account:{call.account}" if account else f"key:{call.key}"
            status = self.statuses.get(subject, KeyStatus())
            if call.key in self.keys and status.condition is Condition.ACTIVE:
                yield Order(subject, Probe.BALANCE if account else Probe.MODELS, call.key)

    def _due_idle(self, now: float) -> Iterable[Order]:
        """For each upstream without calls for a while, the key that was called last."""
        if not self.rules.idle:
            return
        upstreams: dict[str, list[str]] = {}
        shut = self.shut
        for key, held in self.keys.items():
            # Nothing is known at the start or after a reload.
            self._called.setdefault(key, now - max(0.0, self.rules.idle - FIRST_PROBE))
            if key not in shut:
                upstreams.setdefault(held.upstream, []).append(key)
        for keys in upstreams.values():
            last = max(keys, key=lambda key: self._called[key])
            failing = self.keys[last].upstream in self._failing
            if now - self._called[last] >= (min(_RECHECK, self.rules.idle) if failing else self.rules.idle):
                yield Order(f"key:{last}", Probe.MODELS, last)


def _answered(call: HeardCall) -> str:
    status = "the upstream refuses it" if call.status is None else f"the upstream answered {call.status}"
    return f"{status}: {call.words}" if call.words else status


def _reason(subject: str, condition: Condition, why: str) -> str:
    return _WORDS[condition].format(subject.partition(":")[2], why)


def _quota_of(subject: str) -> str:
    kind, _, name = subject.partition(":")
    return key_quota(name, ANY) if kind == "key" else account_quota(name, ANY)


def worse(statuses: Mapping[str, KeyStatus], key: str, account: str) -> KeyStatus:
    """A key's status, or its account's if only that is bad."""
    of_key = statuses.get(f"key:{key}", KeyStatus())
    of_account = statuses.get(f"account:{account}", KeyStatus())
    if of_key.condition is Condition.ACTIVE and of_account.condition is not Condition.ACTIVE:
        return of_account
    return of_key


def to_facts(status: KeyStatus) -> dict[str, Any]:
    """As plain values, for the database."""
    last = status.last
    return {
        "condition": status.condition,
        "reason": status.reason,
        "since": status.since,
        "tests": status.tests,
        "next_test_at": status.next_test_at,
        "last": None
        if last is None
        else {
            "finding": last.finding,
            "at": last.at,
            "seconds": last.seconds,
            "status": last.status,
            "words": last.words,
        },
    }


def from_facts(facts: Mapping[str, Any]) -> KeyStatus:
    """Inverse of `to_facts`. Raises KeyError, ValueError or TypeError for anything else."""
    last = facts["last"]
    return KeyStatus(
        Condition(facts["condition"]),
        str(facts["reason"]),
        float(facts["since"]),
        int(facts["tests"]),
        None if facts["next_test_at"] is None else float(facts["next_test_at"]),
        None
        if last is None
        else Probed(
            KeyTestResult(last["finding"]),
            float(last["at"]),
            float(last["seconds"]),
            last["status"],
            str(last["words"]),
        ),
    )
