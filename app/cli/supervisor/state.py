"""Where a supervised process stands, and how what happens to it moves it on. Pure.

Instants are monotonic seconds.

waiting -> starting -> ready | finished          (finished: ran once, ended with 0)
starting | ready -> backoff -> starting          (it ended by itself)
starting -> gave_up                              (it never worked since we started)
starting | ready -> stopping -> stopped | waiting   (waiting: a reload starts it again)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from app.cli.supervisor.component import Component


class Phase(StrEnum):
    """One word for what a process is doing."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    FINISHED = "finished"
    BACKOFF = "backoff"
    STOPPING = "stopping"
    STOPPED = "stopped"
    GAVE_UP = "gave_up"


ALIVE = frozenset({Phase.STARTING, Phase.READY, Phase.STOPPING})
SERVING = frozenset({Phase.READY, Phase.FINISHED})


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How patient the supervisor is with what ends by itself."""

    first_seconds: float = 0.5  # before the first restart; doubled at each
    most_seconds: float = 30.0
    steady_seconds: float = 30.0  # ready for so long: earlier failures are forgotten
    tries: int = 3  # starts that may fail before it was ever ready
    hopeless: frozenset[int] = frozenset({2, 3})  # exit codes for wrong usage and wrong configuration

    def delay(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row (from 1)."""
        doubled = self.first_seconds * 2.0 ** min(failures - 1, 30)
        return min(self.most_seconds, doubled)


@dataclass(frozen=True, slots=True)
class ProcessState:
    """A process as the supervisor sees it."""

    phase: Phase = Phase.WAITING
    since: float = 0.0  # when it came into this phase
    failures: int = 0  # in a row
    was_ready: bool = False  # ever, in this run
    again_at: float = 0.0  # when `backoff` ends
    stale: bool = False  # a reload wants it started again

    @property
    def alive(self) -> bool:
        """Whether there is a process."""
        return self.phase in ALIVE

    @property
    def serving(self) -> bool:
        """Whether what depends on it may start."""
        return self.phase in SERVING


def started(state: ProcessState, now: float) -> ProcessState:
    """A process was made."""
    return replace(state, phase=Phase.STARTING, since=now, stale=False)


def became_ready(state: ProcessState, now: float) -> ProcessState:
    """It answered for the first time."""
    return replace(state, phase=Phase.READY, since=now, was_ready=True)


def told_to_stop(state: ProcessState, now: float) -> ProcessState:
    """It was sent SIGTERM."""
    return replace(state, phase=Phase.STOPPING, since=now)


def exited(
    component: Component, state: ProcessState, code: int, now: float, *, ending: bool, policy: RestartPolicy
) -> ProcessState:
    """It ended with `code` (negative: by that signal). `ending`: the supervisor itself is on its way out."""
    if ending:
        return replace(state, phase=Phase.STOPPED, since=now)
    if state.phase is Phase.STOPPING:
        return replace(state, phase=Phase.WAITING, since=now)
    if component.once and code == 0:
        return replace(state, phase=Phase.FINISHED, since=now, was_ready=True)
    return _failed(state, code, now, policy)


def _failed(state: ProcessState, code: int, now: float, policy: RestartPolicy) -> ProcessState:
    steady = state.phase is Phase.READY and now - state.since >= policy.steady_seconds
    failures = 1 if steady else state.failures + 1
    if not state.was_ready and (failures >= policy.tries or code in policy.hopeless):
        return replace(state, phase=Phase.GAVE_UP, since=now, failures=failures)
    again_at = now + policy.delay(failures)
    return replace(state, phase=Phase.BACKOFF, since=now, failures=failures, again_at=again_at)
