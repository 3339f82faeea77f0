"""What the dashboard shows: waiting tasks, quota use, failure groups, a task's timeline. Times are Unix seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from app.pacing.domain.breaker import BreakerState
from app.platform.domain.names import parse_backlog_queue
from app.reporting.domain.recent_calls import Sender, Sent
from app.reporting.domain.snapshot import BreakerSnapshot, LimitFigures, QuotaSnapshot
from app.settings.domain.routing import ANY, WINDOW, Topology
from app.tasks.domain.attempt import Outcome


@dataclass(frozen=True, slots=True)
class WaitingLine:
    """A client's waiting tasks for a model; `model` empty: scheduled, held by batch_size, or paused."""

    model: str
    client_id: str
    queued: int = 0  # in its backlog queue
    stored: int = 0  # ready to run, still in the database
    counted_up: bool = False  # at least this many: counting stopped at its limit

    @property
    def total(self) -> int:
        """All of them."""
        return self.queued + self.stored


@dataclass(frozen=True, slots=True)
class LimitShare:
    """How much of a limit is used. `limit` None: none, or unknown."""

    used: float
    limit: float | None
    configured: bool = True  # otherwise learned

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return min(1.0, self.used / self.limit) if self.limit else 0.0


@dataclass(frozen=True, slots=True)
class QuotaLine:
    """A quota with its use: calls and tokens of the last 60 s, calls in flight."""

    id: str
    kind: str  # account, key or upstream
    name: str
    model: str
    calls: LimitShare
    flight: LimitShare
    tokens: LimitShare
    state: QuotaSnapshot
    breaker: BreakerSnapshot | None = None  # unless it is closed
    learned: LimitFigures = field(default_factory=LimitFigures)


class Flying(Protocol):
    """Calls in flight by route."""

    @property
    def account(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def upstream_model(self) -> str: ...
    @property
    def young(self) -> int: ...


class Failed(Protocol):
    """A task that failed."""

    @property
    def model(self) -> str: ...
    @property
    def error_code(self) -> str | None: ...
    @property
    def status(self) -> str: ...
    @property
    def finished_at(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failed tasks of one reason and model, newest first."""

    reason: str
    model: str
    rows: Sequence[Failed]

    @property
    def last_at(self) -> float:
        """When the latest of them ended."""
        return max(row.finished_at or 0.0 for row in self.rows)


def waiting_lines(queued: Mapping[str, int], stored: Mapping[str, int], most: int) -> list[WaitingLine]:
    """Waiting tasks by model and client, the most first, from counts by backlog queue."""
    lines = []
    for queue in queued.keys() | stored.keys():
        try:
            model, client = parse_backlog_queue(queue)
        except ValueError:
            continue
        kept = stored.get(queue, 0)
        lines.append(WaitingLine(model, client, queued.get(queue, 0), kept, kept >= most))
    return sorted(
        (line for line in lines if line.total), key=lambda line: (-line.total, line.model, line.client_id)
    )


def later_by_client(
    waiting: Mapping[str, int], ready: Iterable[WaitingLine], *, moving: bool
) -> dict[str, int]:
    """How many of each client's tasks are scheduled, held or paused: all waiting tasks minus those ready to run.

    The two are counted moments apart, so while tasks are `moving` a small difference counts as none.
    """
    could: dict[str, int] = {}
    for line in ready:
        could[line.client_id] = could.get(line.client_id, 0) + line.total
    rest = {client: count - could.get(client, 0) for client, count in waiting.items()}
    least = {client: max(5, 0.02 * could.get(client, 0)) if moving else 0 for client in rest}
    return {client: count for client, count in rest.items() if count > least[client]}


def quota_lines(
    topology: Topology,
    states: Mapping[str, QuotaSnapshot],
    sent: Mapping[Sender, Sent],
    flying: Iterable[Flying],
    said: Mapping[str, Any] | None = None,
    now: float = 0.0,
) -> list[QuotaLine]:
    """Quotas that have a limit, were paused or are closed by a breaker, in the order of the configuration.

    `said` is the leader's last report of breakers and learned limits.
    """
    used = dict(sent)
    for group in flying:
        sender = Sender(group.account, group.key, group.upstream_model)
        used[sender] = used.get(sender, Sent()) + Sent(calls=group.young)
    upstreams = {
        route.key: route.upstream for tiers in topology.models.values() for t in tiers for route in t
    }
    lines = [
        _quota_line(name, topology, states.get(name) or QuotaSnapshot(name), used, upstreams)
        for name in topology.quota_ids
    ]
    report = said or {}
    lines = [
        replace(line, breaker=_breaker(report, line.id, now), learned=_learned(report, line.id))
        for line in lines
    ]
    return [line for line in lines if _is_shown(line)]


def by_reason(rows: Iterable[Failed]) -> list[FailureGroup]:
    """Failures by reason, the most recent first."""
    groups: dict[tuple[str, str], list[Failed]] = {}
    for row in rows:
        groups.setdefault((row.error_code or row.status, row.model), []).append(row)
    found = [
        FailureGroup(reason, model, sorted(rows, key=lambda row: -(row.finished_at or 0.0)))
        for (reason, model), rows in groups.items()
    ]
    return sorted(found, key=lambda group: -group.last_at)


def _quota_line(
    name: str,
    topology: Topology,
    state: QuotaSnapshot,
    used: Mapping[Sender, Sent],
    upstreams: Mapping[str, str],
) -> QuotaLine:
    kind, _, rest = name.partition(":")
    owner, _, model = rest.partition(":")
    configured = topology.quotas.get(name)
    all_sent = sum(
        (what for sender, what in used.items() if _passes(sender, kind, owner, model, upstreams)), Sent()
    )
    return QuotaLine(
        name,
        kind,
        owner,
        model,
        _use(all_sent.calls, configured.rpm if configured else None, state.rate and state.rate * WINDOW),
        _use(state.flight, configured.concurrency if configured else None, state.cap),
        _use(
            all_sent.tokens,
            configured.tpm if configured else None,
            state.token_rate and state.token_rate * WINDOW,
        ),
        state,
    )


def _passes(sender: Sender, kind: str, owner: str, model: str, upstreams: Mapping[str, str]) -> bool:
    """Whether a call on this route counts against this quota."""
    owners = {"account": sender.account, "key": sender.key, "upstream": upstreams.get(sender.key, "")}
    return owners.get(kind) == owner and model in (ANY, sender.upstream_model)


def _use(used: float, configured: float | None, in_force: float | None) -> LimitShare:
    """The limit in force: a learned limit may be below the configured one, never above."""
    if configured is None:
        return LimitShare(used, in_force, configured=False)
    if in_force is not None and in_force < 0.95 * configured - 1:
        return LimitShare(used, in_force, configured=False)
    return LimitShare(used, configured)


def _breaker(said: Mapping[str, Any], name: str, now: float) -> BreakerSnapshot | None:
    found = said.get("breakers", {}).get(name)
    return BreakerSnapshot(BreakerState(found[0]), found[1], now + found[2]) if found else None


def _learned(said: Mapping[str, Any], name: str) -> LimitFigures:
    return LimitFigures(**said.get("learned", {}).get(name, {}))


def _is_shown(line: QuotaLine) -> bool:
    limited = any(use.limit is not None for use in (line.calls, line.flight, line.tokens))
    return limited or line.state.braked or line.state.brakes > 0 or line.breaker is not None


Row = Mapping[str, Any]  # column names of app/tasks/store/tables.py to values


@dataclass(frozen=True, slots=True)
class Moment:
    """An event of a task. `tone` is good, bad, waiting or plain; `took` is its duration in seconds."""

    at: float  # Unix seconds
    title: str
    detail: str = ""
    tone: str = "plain"
    took: float | None = None


_REFUSED = frozenset({Outcome.RATE_LIMITED, Outcome.OVERLOADED})
_ENDS = {
    "succeeded": ("Succeeded", "good"),
    "failed": ("Failed", "bad"),
    "cancelled": ("Cancelled", "waiting"),
    "expired": ("Expired", "bad"),
}


def timeline(task: Row, attempts: Iterable[Row], deliveries: Iterable[Row]) -> list[Moment]:
    """All events, oldest first."""
    moments = [*_begin(task)]
    for count, call in enumerate(attempts, 1):
        moments += _call(count, call)
    moments += map(_delivery, deliveries)
    if task["finished_at"] is not None:
        title, tone = _ENDS.get(task["status"], (task["status"], "plain"))
        moments.append(Moment(task["finished_at"], title, task["error_message"] or "", tone))
    return sorted(moments, key=lambda moment: moment.at)


def _begin(task: Row) -> Iterator[Moment]:
    yield Moment(task["created_at"], "Queued", f"for {task['model']}")
    if task["available_at"] > task["created_at"] + 1 and not task["attempts"]:
        yield Moment(task["available_at"], "Ready to run", tone="waiting")


def _call(count: int, call: Row) -> Iterator[Moment]:
    if call["released_at"] is not None:
        yield Moment(call["released_at"], "Released", f"to key {call['key']}")
    yield Moment(
        call["started_at"],
        f"Call {count}: {str(call['outcome']).replace('_', ' ')}",
        _said(call),
        _tone(call["outcome"]),
        call["finished_at"] - call["started_at"],
    )


def _said(call: Row) -> str:
    parts = [f"{call['upstream_model']} by {call['key']}"]
    if call["status_code"] is not None:
        parts.append(f"HTTP {call['status_code']}")
    if call["first_byte_at"] is not None:
        parts.append(f"first byte after {1000 * (call['first_byte_at'] - call['started_at']):.0f} ms")
    if not call["counted"] and call["outcome"] != Outcome.SUCCEEDED:
        parts.append("not counted as an attempt")
    if call["upstream_request_id"]:
        parts.append(f"upstream request id {call['upstream_request_id']}")
    if call["error_message"]:
        parts.append(str(call["error_message"]))
    return " · ".join(parts)


def _tone(outcome: str) -> str:
    if outcome == Outcome.SUCCEEDED:
        return "good"
    return "waiting" if outcome in _REFUSED else "bad"


def _delivery(one: Row) -> Moment:
    worked = one["status_code"] is not None and 200 <= one["status_code"] < 300
    came = f"HTTP {one['status_code']}" if one["status_code"] is not None else ""
    return Moment(
        one["started_at"],
        f"Callback, attempt {one['number']}",
        " · ".join(filter(None, [one["type"], came, one["error"] or ""])),
        "good" if worked else "bad",
        one["finished_at"] - one["started_at"],
    )
