"""Whose fault refused requests are: evidence against a key, an account or a route. Pure.

A 401 may speak against its key, a 402 against the account, a 403 or 404 against the key for that model; each may also
be about the one request that met it. So a closure takes several requests, with no success there since the first:

| refused since the last success | closed to |
|---|---|
| fewer than FEW requests | nobody; the key is tested |
| FEW requests or more, of one client | that client |
| FEW requests or more, of several clients | everybody |

A key or account that is refused again after its first refusal came back, or to FEW requests, with nothing of another
client served there lately, is taken for dead (see key_health.py): others may still try it, one call at a time.
Routes answer most of what they are sent while a few requests are refused for their content, so a route is closed only
once nothing has succeeded there for QUIET seconds. Whatever succeeds opens it again, and forgets the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from app.settings.domain.routing import ANY, account_quota, key_quota
from app.tasks.domain.attempt import Outcome

FEW = 3  # different requests
QUIET = 10.0  # seconds
WINDOW = 600.0  # seconds after which a refusal is no evidence any more
REST, LONGEST_REST = 10.0, 60.0  # seconds that a closure lasts: the first, doubled up to the longest
LATELY = 60.0  # seconds for which a client's success speaks for a key that refuses another
TEST_EVERY = 30.0  # seconds between tests of one key, however many requests it refuses
EVERYBODY = ""

_KEY = frozenset({Outcome.UNAUTHORIZED})
_ACCOUNT = frozenset({Outcome.NO_BALANCE})
_ROUTE = frozenset({Outcome.FORBIDDEN, Outcome.UNKNOWN_MODEL})
REFUSALS = _KEY | _ACCOUNT | _ROUTE
_MOST_CLIENTS = 16  # kept of each case
_LONGEST_WORDS = 300  # characters kept of an upstream's


class Reach(Enum):
    """To whom something is closed."""

    NOBODY = "nobody"
    CLIENT = "client"
    EVERYBODY = "everybody"


@dataclass(frozen=True, slots=True)
class HeardCall:
    """A call that came back, as evidence. Instants are Unix seconds."""

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
        """What its success speaks for: key, account and route, as ids of quotas."""
        return (
            key_quota(self.key, ANY),
            account_quota(self.account, ANY),
            key_quota(self.key, self.upstream_model),
        )

    @property
    def subject(self) -> str:
        """What its refusal may speak against."""
        key, account, route = self.subjects
        if self.outcome in _KEY:
            return key
        return account if self.outcome in _ACCOUNT else route


@dataclass(frozen=True, slots=True)
class Closed:
    """Why something is closed, for people, and for how many seconds more."""

    words: str
    seconds: float


@dataclass(slots=True)
class Case:
    """What was refused by one key, account or route since something last succeeded there."""

    call: HeardCall  # the first
    last_at: float
    tasks: dict[str, set[str]] = field(default_factory=dict)  # by client
    until: float = 0.0  # closed
    rest: float = REST
    tested_at: float | None = None
    again: bool = False  # refused once more, after the first refusal came back

    def add(self, call: HeardCall) -> None:
        """One more refused request."""
        self.last_at = call.at
        self.again = self.again or call.sent_at > self.call.at
        if call.client in self.tasks or len(self.tasks) < _MOST_CLIENTS:
            of_client = self.tasks.setdefault(call.client, set())
            if len(of_client) < FEW:
                of_client.add(call.task)


def reach(tasks: Mapping[str, Collection[str]]) -> Reach:
    """How far the requests, by client, that were refused without a success between them may close something."""
    if len(tasks) > 1 and sum(map(len, tasks.values())) >= FEW:
        return Reach.EVERYBODY
    return Reach.CLIENT if any(len(of_client) >= FEW for of_client in tasks.values()) else Reach.NOBODY


@dataclass(slots=True)
class Refusals:
    """The cases that are open. Kept by the leader."""

    cases: dict[str, Case] = field(default_factory=dict)
    succeeded: dict[str, float] = field(default_factory=dict)  # by subject: when the last success was sent
    _clients: dict[str, dict[str, float]] = field(default_factory=dict)  # by subject and client: the same

    def heard(self, call: HeardCall) -> Reach:
        """Take a call as evidence. Returns how far its subject is closed by it."""
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
        """What is closed at `now`, by client (EVERYBODY is one) and by quota."""
        found: dict[str, dict[str, Closed]] = {}
        for subject, case in self.cases.items():
            if now < case.until:
                whole = reach(case.tasks) is Reach.EVERYBODY
                for client in (EVERYBODY,) if whole else _barred(case):
                    found.setdefault(client, {})[subject] = Closed(_words(subject, case), case.until - now)
        return found

    def doubted(self, now: float) -> Iterator[Case]:
        """Cases whose key is to be tested now, each marked as being tested."""
        for case in self.cases.values():
            if case.tested_at is None or (
                now - case.tested_at >= TEST_EVERY and case.last_at > case.tested_at
            ):
                case.tested_at = now
                yield case

    def seems_dead(self, call: HeardCall) -> bool:
        """Whether a refused call leaves its key or account for dead, whatever its own test says."""
        case = self.cases.get(call.subject)
        others = self._clients.get(call.subject, {})
        lately = any(call.at - at <= LATELY for client, at in others.items() if client != call.client)
        return case is not None and not lately and (case.again or reach(case.tasks) is not Reach.NOBODY)

    def forget(self, subjects: Collection[str]) -> None:
        """Somebody says that they are good."""
        for subject in subjects:
            self.cases.pop(subject, None)

    def _exonerate(self, call: HeardCall) -> None:
        for subject in call.subjects:
            self.succeeded[subject] = max(call.sent_at, self.succeeded.get(subject, 0.0))
            latest = self._clients.setdefault(subject, {})
            latest[call.client] = call.at
            if len(latest) > 2:  # two tell whether there is another than some client
                del latest[min(latest, key=lambda one: latest[one])]
            case = self.cases.get(subject)
            if case is not None and call.sent_at >= case.call.sent_at:
                del self.cases[subject]

    def _quiet(self, call: HeardCall) -> bool:
        return call.at - self.succeeded.get(call.subject, 0.0) >= QUIET


def about_a_key(outcome: Outcome, words: str) -> str:
    """An upstream's words where they speak of a key or an account, as they may be passed on; else none."""
    if outcome not in _KEY | _ACCOUNT:
        return ""
    return words[:_LONGEST_WORDS].encode(errors="replace").decode()


def _barred(case: Case) -> list[str]:
    return [client for client, of_client in case.tasks.items() if len(of_client) >= FEW]


def _words(subject: str, case: Case) -> str:
    kind, _, rest = subject.partition(":")
    name, _, model = rest.rpartition(":")
    where = f"{kind} {name}" + ("" if model == ANY else f", model {model}")
    return f"{where}: the upstream refuses every request ({case.call.outcome}); it is tried again by itself"
