"""Faults: what can go wrong at an upstream, and which fault applies to a call."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Literal

Endpoint = Literal["chat", "models", "balance", "*"]


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One way to fail.

    `status` is what the client reads (0: no answer at all). `works` says whether the answer is really
    made before the fault strikes: it then takes its time, its slot and its price. `good` says that a
    patient client still gets a whole and true answer. `stream_only` faults pass other calls by.
    """

    name: str
    status: int
    summary: str
    works: bool = False
    good: bool = False
    stream_only: bool = False


_STATUSES = {
    400: "bad format",
    401: "wrong key",
    402: "no balance",
    403: "forbidden",
    404: "unknown model",
    408: "request timeout",
    422: "bad parameters",
    429: "over the limit, without Retry-After unless one is given",
    500: "server error",
    502: "bad gateway (an HTML page, as proxies send)",
    503: "server busy",
    504: "gateway timeout (an HTML page, as proxies send)",
}

_KINDS = (
    *(FaultKind(str(status), status, summary) for status, summary in _STATUSES.items()),
    FaultKind("429-retry-after", 429, "429 with Retry-After (1 s unless given)"),
    FaultKind("429-insufficient-quota", 429, "429 with code insufficient_quota"),
    FaultKind("timeout", 0, "never answers (or closes silently after `seconds`)"),
    FaultKind("reset", 0, "connection reset before any byte"),
    FaultKind("reset-mid-body", 200, "connection reset after half the body", works=True),
    FaultKind("blank", 200, "200 with only blank lines for `seconds` (3), then a close"),
    FaultKind("error-200", 200, '200 holding {"error"}'),
    FaultKind("malformed", 200, "200 whose body is not JSON", works=True),
    FaultKind("truncated", 200, "content-length longer than what is sent, then a close", works=True),
    FaultKind("no-choices", 200, "200 with an empty list of choices", works=True),
    FaultKind("wrong-content-type", 200, "200 with an HTML page"),
    FaultKind(
        "slow-keep-alive",
        200,
        "keep-alive lines for `seconds` (3), then a good answer",
        works=True,
        good=True,
    ),
    FaultKind("drip", 200, "a good body, one byte every `interval` seconds (1)", works=True, good=True),
    FaultKind("huge", 200, "a body of `size` bytes (33 MiB), streamed", works=True),
    FaultKind("content-filter", 200, "finish_reason content_filter and no content", works=True),
    FaultKind("no-capacity", 200, "finish_reason insufficient_system_resource in mid-answer", works=True),
    FaultKind("slow", 200, "a good answer, `factor` (10) times slower", works=True, good=True),
    FaultKind("stream-error", 200, "an error event in mid-stream", works=True, stream_only=True),
    FaultKind("stream-cut", 200, "the stream ends in the middle", works=True, stream_only=True),
)

KINDS: dict[str, FaultKind] = {kind.name: kind for kind in _KINDS}


@dataclass(frozen=True, slots=True)
class Fault:
    """A rule: `name` strikes matching calls with probability `rate`, at most `count` times.

    It holds between `from_seconds` and `until_seconds` on the simulator's clock, which starts at 0 and can
    be started anew. `key`, `account` and `model` match by name (`*`: any), `stream` by the kind of call,
    `contains` by a piece of the prompt. The rest shapes the fault; see each kind.
    """

    name: str
    rate: float = 1.0
    from_seconds: float = 0.0
    until_seconds: float | None = None
    count: int | None = None
    key: str = "*"
    account: str = "*"
    model: str = "*"
    stream: bool | None = None
    contains: str | None = None
    endpoint: Endpoint = "chat"
    retry_after: float | None = None
    message: str | None = None
    seconds: float | None = None
    interval: float = 1.0
    factor: float = 10.0
    size: int = 33 * 1024 * 1024

    def __post_init__(self) -> None:
        """Reject unknown names and rates outside 0 to 1."""
        if self.name not in KINDS:
            raise ValueError(f"unknown fault {self.name!r}; there are: {', '.join(KINDS)}")
        if not 0 <= self.rate <= 1:
            raise ValueError(f"the rate of fault {self.name!r} must lie between 0 and 1, not {self.rate}")
        if self.interval < 0 or self.factor < 0 or self.size < 0:
            raise ValueError("interval, factor and size must not be negative")

    @property
    def kind(self) -> FaultKind:
        """What this fault does."""
        return KINDS[self.name]

    @property
    def held_seconds(self) -> float:
        """For how long blank lines are sent: `seconds`, or 3."""
        return 3.0 if self.seconds is None else self.seconds


@dataclass(frozen=True, slots=True)
class Target:
    """The facts that rules can match."""

    key: str
    account: str
    model: str = ""
    stream: bool = False
    prompt: str = ""
    endpoint: Endpoint = "chat"


class FaultBook:
    """The current rules; the first that matches and wins its draw applies."""

    __slots__ = ("_chance", "_struck", "rules")

    def __init__(self, rules: Iterable[Fault], chance: Random) -> None:
        """`chance` is asked only for rates between 0 and 1, once for each such rule that matches."""
        self.rules = tuple(rules)
        self._chance = chance
        self._struck = [0] * len(self.rules)

    def strike(self, target: Target, clock_seconds: float) -> Fault | None:
        """The fault for this call, counted, or None."""
        for place, rule in enumerate(self.rules):
            if rule.count is not None and self._struck[place] >= rule.count:
                continue
            if matches(rule, target, clock_seconds) and self._falls(rule.rate):
                self._struck[place] += 1
                return rule
        return None

    def struck(self) -> list[int]:
        """How often each rule has applied, in order."""
        return list(self._struck)

    def _falls(self, rate: float) -> bool:
        return rate >= 1 or (rate > 0 and self._chance.random() < rate)


def matches(rule: Fault, target: Target, clock_seconds: float) -> bool:
    """Whether a rule applies to a call at `clock_seconds` on the simulator's clock."""
    in_time = rule.from_seconds <= clock_seconds and (
        rule.until_seconds is None or clock_seconds < rule.until_seconds
    )
    return in_time and _matches_names(rule, target) and _matches_shape(rule, target)


def _matches_names(rule: Fault, target: Target) -> bool:
    wanted = ((rule.key, target.key), (rule.account, target.account), (rule.model, target.model))
    return all(name in ("*", actual) for name, actual in wanted)


def _matches_shape(rule: Fault, target: Target) -> bool:
    if rule.endpoint not in ("*", target.endpoint):
        return False
    if rule.kind.stream_only and not target.stream:
        return False
    if rule.stream is not None and rule.stream != target.stream:
        return False
    return rule.contains is None or rule.contains in target.prompt
