"""Whether refusals are the fault of a key, an account or a route. Pure.

A 401 may be evidence against its key, a 402 against the account, a 403 or 404 against the key for that model; each may
also concern only the one request. So closing one takes several requests, with no success there since the first:

| refused since the last success | closed to |
|---|---|
| fewer than FEW requests | nobody; the key is tested |
| FEW requests or more, of one client | that client |
| FEW requests or more, of several clients | everybody |

A key or account that refuses again after its first refusal, or refuses FEW requests, while no other client succeeded
there lately, is taken for dead (see key_health.py): others may still try it, one call at a time. A route may refuse a
few requests for their content and answer the rest, so it is closed only once nothing has succeeded there for QUIET
seconds. Any success opens it again and clears the case.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from app.settings.domain.routing import ANY, account_quota, key_quota
from app.tasks.domain.attempt import Outcome
from app.upstreams.domain.upstream_error import UpstreamError

FEW = 3  # different requests
QUIET = 10.0  # seconds
WINDOW = 600.0  # seconds for which a refusal is evidence
REST, LONGEST_REST = (
    10.0,
    60.0,
)  # seconds for which something is closed: at first, doubled each time up to the second
LATELY = 60.0  # seconds for which a client's success is evidence for a key that refuses another client
TEST_EVERY = 30.0  # seconds between tests of one key, however many requests it refuses
EVERYBODY = ""

_KEY = frozenset({Outcome.UNAUTHORIZED})
_ACCOUNT = frozenset({Outcome.NO_BALANCE})
_ROUTE = frozenset({Outcome.FORBIDDEN, Outcome.UNKNOWN_MODEL})
REFUSALS = _KEY | _ACCOUNT | _ROUTE
_MAX_CLIENTS = 16  # kept per case
_LONGEST_WORDS = 300  # characters kept of an upstream's words


class Reach(Enum):
    """Who may no longer use something."""

    NOBODY = "nobody"
    CLIENT = "client"
    EVERYBODY = "everybody"


@dataclass(frozen=True, slots=True)
class HeardCall:
    """A finished call, as evidence. Instants are Unix seconds."""

    outcome: Outcome
    client: str
    task: str
    key: str
    account: str
    upstream_model: str
    sent_at: float
    at: float
    status: int | None = None
    words: str = ""  # the upstream's

    @property
    def subjects(self) -> tuple[str, str, str]:
        """What its success is evidence for: key, account and route, as quota ids."""
        return (
            key_quota(self.key, ANY),
            account_quota(self.account, ANY),
            key_quota(self.key, self.upstream_model),
        )

    @property
    def subject(self) -> str:
        """What its refusal may be evidence against."""
        key, account, route = self.subjects
        if self.outcome in _KEY:
            return key
        return account if self.outcome in _ACCOUNT else route


@dataclass(frozen=True, slots=True)
class Closed:
    """Why something is closed, for people, and for how many more seconds."""

    words: str
    seconds: float


@dataclass(slots=True)
class Case:
    """What one key, account or route has refused since its last success."""

    call: HeardCall  # the first
    last_at: float
    tasks: dict[str, set[str]] = field(default_factory=dict)  # by client
    until: float = 0.0  # when it opens again
    rest: float = REST
    tested_at: float | None = None
    again: bool = False  # refused a call that was sent after the first refusal

    def add(self, call: HeardCall) -> None:
        """Add a refused request."""
        self.last_at = call.at
        self.again = self.again or call.sent_at > self.call.at
        if call.client in self.tasks or len(self.tasks) < _MAX_CLIENTS:
            of_client = self.tasks.setdefault(call.client, set())
            if len(of_client) < FEW:
                of_client.add(call.task)


def reach(tasks: Mapping[str, Collection[str]]) -> Reach:
    """To whom refused requests, by client and without a success between them, close something."""
    if len(tasks) > 1 and sum(map(len, tasks.values())) >= FEW:
        return Reach.EVERYBODY
    return Reach.CLIENT if any(len(of_client) >= FEW for of_client in tasks.values()) else Reach.NOBODY


@dataclass(slots=True)
class Refusals:
    """The open cases. Owned by the leader's tick thread."""

    cases: dict[str, Case] = field(default_factory=dict)
    succeeded: dict[str, float] = field(default_factory=dict)  # by subject: when the latest success was sent
    _clients: dict[str, dict[str, float]] = field(default_factory=dict)  # by subject and client: the same

    def heard(self, call: HeardCall) -> Reach:
        """Take a call as evidence. Returns to whom it closes its subject."""
        if call.outcome is Outcome.SUCCEEDED:
            self._exonerate(call)
        if call.outcome not in REFUSALS or call.sent_at < self.succeeded.get(call.subject, 0.0):
            return Reach.NOBODY
        case = self.cases.get(call.subject)
        if case is None or call.at - case.last_at > WINDOW:
            case = self.cases[call.subject] = Case(call, call.at)
        case.add(call)
        found = reach(case.tasks)
        if found is Reach.NOBODY or (call.outcome in _ROUTE and not self._quiet(call)):
            return Reach.NOBODY
        if call.at >= case.until:
            case.until, case.rest = call.at + case.rest, min(LONGEST_REST, 2 * case.rest)
        return found

    def closed(self, now: float) -> dict[str, dict[str, Closed]]:
        """What is closed at `now`, by client (EVERYBODY is one) and quota."""
        found: dict[str, dict[str, Closed]] = {}
        for subject, case in self.cases.items():
            if now < case.until:
                whole = reach(case.tasks) is Reach.EVERYBODY
                for client in (EVERYBODY,) if whole else _barred(case):
                    found.setdefault(client, {})[subject] = Closed(_words(subject, case), case.until - now)
        return found

    def doubted(self, now: float) -> Iterator[Case]:
        """Cases whose key is due for a test, which are marked as tested."""
        for case in self.cases.values():
            if case.tested_at is None or (
                now - case.tested_at >= TEST_EVERY and case.last_at > case.tested_at
            ):
                case.tested_at = now
                yield case

    def seems_dead(self, call: HeardCall) -> bool:
        """Whether a refused call makes its key or account count as dead, whatever its own test says."""
        case = self.cases.get(call.subject)
        others = self._clients.get(call.subject, {})
        lately = any(call.at - at <= LATELY for client, at in others.items() if client != call.client)
        return case is not None and not lately and (case.again or reach(case.tasks) is not Reach.NOBODY)

    def forget(self, subjects: Collection[str]) -> None:
        """Clear these cases: an operator or a test vouches for them."""
        for subject in subjects:
            self.cases.pop(subject, None)

    def _exonerate(self, call: HeardCall) -> None:
        for subject in call.subjects:
            self.succeeded[subject] = max(call.sent_at, self.succeeded.get(subject, 0.0))
            latest = self._clients.setdefault(subject, {})
            latest[call.client] = call.at
            if len(latest) > 2:  # two suffice to find another client than a given one
                del latest[min(latest, key=lambda one: latest[one])]
            case = self.cases.get(subject)
            if case is not None and call.sent_at >= case.call.sent_at:
                del self.cases[subject]

    def _quiet(self, call: HeardCall) -> bool:
        return call.at - self.succeeded.get(call.subject, 0.0) >= QUIET


def about_a_key(outcome: Outcome, words: str) -> str:
    """An upstream's words if they are about a key or account, which may be shown; otherwise none."""
    if outcome not in _KEY | _ACCOUNT:
        return ""
    return words[:_LONGEST_WORDS].encode(errors="replace").decode()


def _barred(case: Case) -> list[str]:
    return [client for client, of_client in case.tasks.items() if len(of_client) >= FEW]


def _words(subject: str, case: Case) -> str:
    kind, _, rest = subject.partition(":")
    name, _, model = rest.rpartition(":")
    where = f"{kind} {name}" + ("" if model == ANY else f", model {model}")
    return f"{where}: the upstream refuses every request ({case.call.outcome}); it is retried automatically"


Figure = Literal["calls", "pace", "tokens"]

NEAR = 0.05  # fraction of a limit
USED = 0.85  # fraction of its level above which a pace may have held the backlog back
FEW_CALLS = 8  # calls at once: fewer prove nothing
BEYOND = 1.25  # times a known pace, accepted without a refusal: the limit is elsewhere


@dataclass(frozen=True, slots=True)
class LimitUsage:
    """How much of a limited metric was in use when a call was refused."""

    name: Figure
    amount: float
    level: float  # what was allowed; infinite without a limit
    known: float | None  # the estimated limit
    bound: bool  # whether it held the backlog back
    slack: float = 0.0  # relative error of the amount

    @property
    def at_limit(self) -> bool:
        """Whether usage was near the estimated limit or, without one, near what was allowed."""
        if self.known is not None:
            return self.amount >= (1 - NEAR) * self.known
        return self.amount >= (1 - NEAR if self.name == "calls" else USED) * self.level

    @property
    def is_beyond(self) -> bool:
        """Whether usage exceeds the estimated limit, which must be wrong then."""
        return self.known is not None and self.amount > BEYOND * self.known


def attribute_refusal(
    named: Figure | None, calls: LimitUsage, pace: LimitUsage, proved: int
) -> Sequence[Figure]:
    """What to reduce: the metric that the refusal names, else calls at once, calls per second, or both.

    1. Not calls at once if as many were accepted a moment ago (`proved`: the most of which one succeeded).
    2. What was used up to its estimated limit. A pace far beyond its own has no limit there: then calls at once.
    3. If both were, the one that held the backlog back; else calls at once, the more reliable number.
    """
    if named is not None:
        return (named,)
    if calls.amount < proved - max(2.0, max(0.1, calls.slack) * proved):
        return ("pace",)
    if pace.is_beyond and calls.known is not None and calls.amount >= FEW_CALLS:
        return ("calls",)
    suspects = [use.name for use in (calls, pace) if use.at_limit]
    if len(suspects) == 2 and calls.known is not None:
        return ("pace",) if pace.bound and not calls.bound else ("calls",)
    return suspects or ("calls", "pace")


_CALLS = re.compile(r"\bconcurren|\bin flight\b|\bsimultaneous|\bparallel requests", re.IGNORECASE)
_TOKENS = re.compile(r"\btokens? per (min|sec|day)|\btpm\b|\btokens[_ ]limit", re.IGNORECASE)
_PACE = re.compile(
    r"\brequests? per (min|sec|day)|\brpm\b|\bqps\b|\brps\b|\btoo many requests per\b", re.IGNORECASE
)


def named_limit(error: UpstreamError) -> Figure | None:
    """`calls` at once, `tokens` or `pace` (calls per minute or second); None if it names none or several."""
    text = f"{error.code} {error.type} {error.message}"
    named: set[Figure] = set()
    if _CALLS.search(text) or "并发" in text:
        named.add("calls")
    if _TOKENS.search(text):
        named.add("tokens")
    if _PACE.search(text):
        named.add("pace")
    return named.pop() if len(named) == 1 else None
