"""What limits throughput, in one line: nothing, our own processes, the upstream, the limits, an operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from app.pacing.domain.why import Binding, Bound, named


class Cause(StrEnum):
    """Where to act, if anywhere."""

    NOBODY = "nobody"  # nothing waits, or nothing limits it
    US = "us"
    UPSTREAM = "upstream"
    LIMITS = "limits"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """One line for an operator."""

    holder: Cause
    words: str


@dataclass(frozen=True, slots=True)
class ModelBacklog:
    """How many tasks wait for one model, and for which limit."""

    model: str
    waiting: int
    binding: Binding


@dataclass(frozen=True, slots=True)
class Service:
    """The facts behind the line. What is unknown counts as none."""

    database: bool = True
    redis: bool = True
    leads: bool = True  # a dispatcher leads
    workers: int = 0
    slots: int = 0
    flight: int = 0
    waiting: int = 0  # tasks, for whatever reason
    backlogs: Sequence[ModelBacklog] = ()
    paused: Sequence[str] = ()  # as text: `everything`, `model flash`
    upstreams: Mapping[str, str] = field(default_factory=dict)  # by quota and key


def find_bottleneck(service: Service) -> Bottleneck:
    """The line; what must be fixed first comes first."""
    if not service.database:
        return Bottleneck(Cause.US, "us: the database does not answer")
    if "everything" in service.paused:
        return Bottleneck(Cause.OPERATOR, f"paused by an operator: everything ({_waiting(service.waiting)})")
    if service.waiting == 0:
        return Bottleneck(Cause.NOBODY, "nothing waits" + _aside(service))
    ours = _ours(service)
    if ours is not None:
        return Bottleneck(Cause.US, f"us: {ours}; {_waiting(service.waiting)}")
    if not service.backlogs:
        return _later(service)
    longest = max(service.backlogs, key=lambda one: one.waiting)
    found = _bound(longest.binding, service)
    return Bottleneck(found.holder, f"{found.words} ({_waiting(longest.waiting)} for {longest.model})")


def _ours(service: Service) -> str | None:
    if not service.redis:
        return "Redis does not answer, so nothing starts; submissions are still accepted"
    if not service.leads:
        return "no dispatcher leads, so nothing starts: start `penstock dispatcher`"
    if service.workers == 0:
        return "no worker is running: start `penstock worker`"
    return None


def _later(service: Service) -> Bottleneck:
    if service.paused:
        return Bottleneck(
            Cause.OPERATOR,
            f"paused by an operator: {', '.join(service.paused)} ({_waiting(service.waiting)})",
        )
    return Bottleneck(
        Cause.NOBODY,
        f"nothing is due: {_waiting(service.waiting)}, scheduled, held by batch_size or over budget",
    )


def _bound(binding: Binding, service: Service) -> Bottleneck:
    upstream = service.upstreams.get(binding.subject, "the upstream's")
    owner = named(binding.subject)
    match binding.bound:
        case Bound.PAUSED:
            return Bottleneck(Cause.OPERATOR, binding.why)
        case Bound.SLOTS:
            return Bottleneck(Cause.US, _slots(service))
        case Bound.ROUTE:
            return Bottleneck(Cause.US, "us: no tier of the model may serve the waiting tasks")
        case Bound.DISABLED:
            return Bottleneck(Cause.UPSTREAM, f"the upstream: {upstream} refuses, {binding.why}")
        case Bound.BRAKED | Bound.PROBE:
            why = binding.why or "a refusal"
            return Bottleneck(Cause.UPSTREAM, f"the upstream: {upstream} refuses, {why} ({owner})")
        case Bound.BREAKER:
            return Bottleneck(
                Cause.UPSTREAM, f"the upstream: {upstream} fails, its circuit breaker is open ({owner})"
            )
        case Bound.PACE:
            return Bottleneck(
                Cause.LIMITS, f"limits: the adaptive rate of {owner}, {binding.figure or 0:.0f} rpm by [pace]"
            )
        case Bound.CALLS | Bound.REQUESTS | Bound.TOKENS:
            return Bottleneck(Cause.LIMITS, f"limits: {_figure(binding)} of {owner} fully used")
        case Bound.TURN:
            return Bottleneck(Cause.NOBODY, "work flows")


def _figure(binding: Binding) -> str:
    unit = {Bound.CALLS: "concurrent calls", Bound.REQUESTS: "rpm", Bound.TOKENS: "tpm"}[binding.bound]
    return f"{binding.figure or 0:.0f} {unit}"


def _slots(service: Service) -> str:
    if service.slots > service.flight:
        return "us: no worker with a free slot serves the keys that could take these tasks"
    return f"us: all {service.slots} slots of {service.workers} workers are in use: start another `penstock worker`"


def _waiting(count: int) -> str:
    return f"{count:,} task{'' if count == 1 else 's'} wait{'s' if count == 1 else ''}"


def _aside(service: Service) -> str:
    parts = [f"{service.flight:,} calls in flight"] if service.flight else []
    parts += [f"paused by an operator: {', '.join(service.paused)}"] if service.paused else []
    missing = _ours(service)
    parts += [missing] if missing else []
    return f" ({'; '.join(parts)})" if parts else ""
