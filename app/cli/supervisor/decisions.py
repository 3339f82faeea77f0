"""Which process starts, stops, restarts or is given up, and when. Pure; instants are monotonic seconds.

waiting -> starting -> ready | finished             (finished: ran once and exited with 0)
starting | ready -> backoff -> starting             (exited by itself)
starting -> gave_up                                 (never became ready)
starting | ready -> stopping -> stopped | waiting   (waiting: a reload starts it again)"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal


@dataclass(frozen=True, slots=True)
class Component:
    """What to start, after what, and how to tell that it is ready.

    `after` names the components that must be ready first; they are stopped only when this one is gone.
    `probe` answers whether it is ready; without one it says so itself (`lifeline.ready`), and a component
    that runs `once` is ready when it has ended with 0.
    """

    name: str
    command: tuple[str, ...]
    after: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    probe: Callable[[], bool] | None = None
    once: bool = False
    renewed: bool = False  # reads the configuration at its start, so that a reload starts it again
    start_seconds: float = 120.0  # then it counts as failed; a busy machine takes half a minute
    stop_seconds: float = 10.0  # then it is killed


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


@dataclass(frozen=True, slots=True)
class SupervisorStep:
    """One deed: start it, tell it to stop (SIGTERM), or kill it (SIGKILL)."""

    deed: Literal["start", "stop", "kill"]
    name: str


def next_steps(
    components: Sequence[Component], states: Mapping[str, ProcessState], now: float, *, ending: bool
) -> list[SupervisorStep]:
    """Decide the deeds due at `now` (monotonic seconds).

    1. Kill what was told to stop and did not, and what does not become ready.
    2. On the way out: stop what nothing alive depends on.
    3. Else start what waits and may start; and renew one stale component, when all else is calm.
    """
    steps = [SupervisorStep("kill", c.name) for c in components if _overdue(c, states[c.name], now)]
    if ending:
        return steps + [
            SupervisorStep("stop", c.name) for c in components if _may_stop(c, components, states)
        ]
    steps += [SupervisorStep("start", c.name) for c in components if _may_start(c, states, now)]
    return steps or _renewal(components, states)


def _overdue(component: Component, state: ProcessState, now: float) -> bool:
    if state.phase is Phase.STOPPING:
        return now - state.since >= component.stop_seconds
    return state.phase is Phase.STARTING and now - state.since >= component.start_seconds


def _may_start(component: Component, states: Mapping[str, ProcessState], now: float) -> bool:
    state = states[component.name]
    due = state.phase is Phase.WAITING or (state.phase is Phase.BACKOFF and now >= state.again_at)
    return due and all(states[name].serving for name in component.after)


def _may_stop(
    component: Component, components: Sequence[Component], states: Mapping[str, ProcessState]
) -> bool:
    if states[component.name].phase not in (Phase.STARTING, Phase.READY):
        return False
    dependents = (other for other in components if component.name in other.after)
    return not any(states[other.name].alive for other in dependents)


def _renewal(components: Sequence[Component], states: Mapping[str, ProcessState]) -> list[SupervisorStep]:
    """One at a time, so that there is always somebody who works."""
    if any(states[c.name].phase in (Phase.STOPPING, Phase.STARTING) for c in components):
        return []
    stale = (c.name for c in components if states[c.name].phase is Phase.READY and states[c.name].stale)
    return [SupervisorStep("stop", name) for name in stale][:1]
