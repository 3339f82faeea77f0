"""Compares what was accepted, the rows, the simulator's log and the receiver's log; one line for each law."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ENDS = {"succeeded", "failed", "cancelled", "expired"}
RECOVERY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Recovery:
    """How a fault was survived. Seconds."""

    fault: str
    text: str
    lasted: float
    back_after: float | None  # until sends had 90 % of their pace again; None: not while it was looked at
    allowed: float = RECOVERY_SECONDS


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is compared."""

    accepted: Sequence[str]  # task ids that the API answered 202 for
    rows: Mapping[str, str]  # task id -> status
    results: Mapping[str, int]  # task id -> succeeded attempts recorded
    answered: Mapping[str, int]  # task id -> attempts recorded of which the end is known
    calls: Mapping[
        str, Sequence[str]
    ]  # task id -> what each call that the upstream admitted came to, in order
    rightly_failing: frozenset[str]  # what an upstream may say that rightly fails a task
    refused: int  # calls that the upstream refused for a quota
    most_in_a_minute: Mapping[str, tuple[int, float]]  # quota -> (received in any 60 s, allowed)
    callbacks: Mapping[str, set[str]]  # task id -> webhook ids received
    unverified: Sequence[str]  # callbacks whose signature was wrong: head and beginning
    in_flight_at_kills: int  # claimed and not recorded when their worker was killed: these may be repeated
    recoveries: Sequence[Recovery] = ()


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
    twice = [t for t, times in e.results.items() if times > 1]
    repeated = sum(max(0, len(calls) - e.answered.get(t, 0)) for t, calls in e.calls.items())
    over = {q: seen for q, (seen, allowed) in e.most_in_a_minute.items() if seen > allowed}
    untold = [t for t in e.accepted if t not in e.callbacks]
    unstable = [t for t, ids in e.callbacks.items() if len(ids) > 1]
    return [
        Finding("nothing accepted is lost", f"{len(lost)} of {len(e.accepted)} lost", not lost),
        Finding("every task comes to an end", f"{len(open_)} still open", not open_),
        _failures(e),
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
        Finding(
            "callbacks are signed",
            " ".join([f"{len(e.unverified)} unverified", *e.unverified[:1]]),
            not e.unverified,
        ),
        *([_recovered(e.recoveries)] if e.recoveries else []),
    ]


def _failures(e: Evidence) -> Finding:
    """Whatever did not succeed must have been failed by what the upstream said last."""
    others = {t: e.rows[t] for t in e.accepted if t in e.rows and e.rows[t] != "succeeded"}
    rightly = {
        t
        for t, status in others.items()
        if status == "failed" and e.calls.get(t) and e.calls[t][-1] in e.rightly_failing
    }
    wrongly = Counter(status for t, status in others.items() if t not in rightly)
    told = f"{len(rightly)} failed by what the upstream said, " if rightly else ""
    return Finding(
        "faults of ours fail no task", f"{told}{dict(wrongly) or 'all others succeeded'}", not wrongly
    )


def _recovered(recoveries: Sequence[Recovery]) -> Finding:
    slow = [r for r in recoveries if r.back_after is None or r.back_after > r.allowed]
    names = ", ".join(
        f"{r.fault} ({'never' if r.back_after is None else f'{r.back_after:.1f} s'})" for r in slow
    )
    return Finding(
        "back to 90 % of pace within 10 s of a fault's end",
        f"{len(recoveries) - len(slow)} of {len(recoveries)}{f'; later: {names}' if slow else ''}",
        not slow,
    )
