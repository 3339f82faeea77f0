"""A task's life as moments in order: queued, released, each call, each try at its callback, its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.tasks.domain.attempt import Outcome

Row = Mapping[str, Any]  # column names of app/tasks/store/tables.py to values


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened. `tone` is good, bad, waiting or plain; `took` seconds, where it took time."""

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
    """All moments, oldest first."""
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
        yield Moment(task["available_at"], "May run from here on", tone="waiting")


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
        parts.append("does not count")
    if call["upstream_request_id"]:
        parts.append(f"upstream's id {call['upstream_request_id']}")
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
        f"Callback, try {one['number']}",
        " · ".join(filter(None, [one["type"], came, one["error"] or ""])),
        "good" if worked else "bad",
        one["finished_at"] - one["started_at"],
    )
