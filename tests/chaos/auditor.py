"""Compares what was accepted, the rows, the simulator's log and the receiver's log; one line for each law."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ENDS = {"succeeded", "failed", "cancelled", "expired"}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is compared."""

    accepted: Sequence[str]  # task ids that the API answered 202 for
    rows: Mapping[str, str]  # task id -> status
    results: Mapping[str, int]  # task id -> succeeded attempts recorded
    calls: Mapping[str, int]  # task id -> calls that the upstream admitted
    refused: int  # calls that the upstream refused for a quota
    most_in_a_minute: Mapping[str, tuple[int, float]]  # quota -> (received in any 60 s, allowed)
    callbacks: Mapping[str, set[str]]  # task id -> webhook ids received
    unverified: int  # callbacks whose signature was wrong
    in_flight_at_kills: int  # calls that ran when a worker was killed: these may be repeated


@dataclass(frozen=True, slots=True)
class Finding:
    """One law, and whether it held."""

    law: str
    figure: str
    held: bool

    def __str__(self) -> str:
        return f"{'ok  ' if self.held else 'FAIL'} {self.law}: {self.figure}"


def audit(e: Evidence) -> list[Finding]:
    """Hold the evidence against each law."""
    lost = [t for t in e.accepted if t not in e.rows]
    open_ = [t for t in e.accepted if e.rows.get(t) not in ENDS]
    not_succeeded = Counter(e.rows[t] for t in e.accepted if t in e.rows and e.rows[t] != "succeeded")
    twice = [t for t, times in e.results.items() if times > 1]
    repeated = sum(times - 1 for times in e.calls.values() if times > 1)
    over = {q: seen for q, (seen, allowed) in e.most_in_a_minute.items() if seen > allowed}
    untold = [t for t in e.accepted if t not in e.callbacks]
    unstable = [t for t, ids in e.callbacks.items() if len(ids) > 1]
    return [
        Finding("nothing accepted is lost", f"{len(lost)} of {len(e.accepted)} lost", not lost),
        Finding("every task comes to an end", f"{len(open_)} still open", not open_),
        Finding(
            "faults of ours fail no task", f"{dict(not_succeeded) or 'all succeeded'}", not not_succeeded
        ),
        Finding("a task is recorded once", f"{len(twice)} recorded twice", not twice),
        Finding(
            "calls are repeated only for those in flight at a kill",
            f"{repeated} repeated, {e.in_flight_at_kills} were in flight",
            repeated <= e.in_flight_at_kills,
        ),
        Finding(
            "no quota is exceeded",
            f"{e.refused} refused, over in 60 s: {over or 'none'}",
            not e.refused and not over,
        ),
        Finding("every callback is delivered", f"{len(untold)} missing", not untold),
        Finding("a callback's id is stable", f"{len(unstable)} with several", not unstable),
        Finding("callbacks are signed", f"{e.unverified} unverified", not e.unverified),
    ]
