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
    """A process to run: its command, what it needs first, and how to check that it is ready.

    `after` names the components that must be ready first; they are stopped only when this one is gone.
    `probe` answers whether it is ready; without one it says so itself (`lifeline.ready`), and a component
    that runs `once` is ready when it has ended with 0.
    """

    name: str
    command: tuple[str, ...]
    after: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()  # variables it does not get: secrets that are no business of its own
    probe: Callable[[], bool] | None = None
    once: bool = False
    renewed: bool = False  # reads the configuration at start, so a reload restarts it
    start_seconds: float = 120.0  # then it has failed; a busy machine takes half a minute
    stop_seconds: float = 10.0  # then it is killed


class Phase(StrEnum):
    """The state of a process."""

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
    """How processes that exit unexpectedly are restarted."""

    first_seconds: float = 0.5  # before the first restart; doubles each time
    most_seconds: float = 30.0
    steady_seconds: float = 30.0  # after this long in `ready`, earlier failures are forgotten
    tries: int = 3  # failed starts before giving up on a process that was never ready
    hopeless: frozenset[int] = frozenset({2, 3})  # exit codes for wrong usage and wrong configuration

    def delay(self, failures: int) -> float:
        """Seconds to wait after this many consecutive failures (from 1)."""
        doubled = self.first_seconds * 2.0 ** min(failures - 1, 30)
        return min(self.most_seconds, doubled)


@dataclass(frozen=True, slots=True)
class ProcessState:
    """The supervisor's view of a process."""

    phase: Phase = Phase.WAITING
    since: float = 0.0  # when this phase began
    failures: int = 0  # in a row
    was_ready: bool = False  # ever, in this run
    again_at: float = 0.0  # when `backoff` ends
    stale: bool = False  # a reload wants it restarted

    @property
    def alive(self) -> bool:
        """Whether a process exists."""
        return self.phase in ALIVE

    @property
    def serving(self) -> bool:
        """Whether components that depend on it may start."""
        return self.phase in SERVING


def started(state: ProcessState, now: float) -> ProcessState:
    """The process was started."""
    return replace(state, phase=Phase.STARTING, since=now, stale=False)


def became_ready(state: ProcessState, now: float) -> ProcessState:
    """It became ready."""
    return replace(state, phase=Phase.READY, since=now, was_ready=True)


def stop_requested(state: ProcessState, now: float) -> ProcessState:
    """It was sent SIGTERM."""
    return replace(state, phase=Phase.STOPPING, since=now)


def exited(
    component: Component, state: ProcessState, code: int, now: float, *, ending: bool, policy: RestartPolicy
) -> ProcessState:
    """It exited with `code` (negative: the signal). `ending`: the supervisor is shutting down."""
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
    """One action: start, stop (SIGTERM) or kill (SIGKILL) a process."""

    action: Literal["start", "stop", "kill"]
    name: str


def next_steps(
    components: Sequence[Component], states: Mapping[str, ProcessState], now: float, *, ending: bool
) -> list[SupervisorStep]:
    """Decide the actions due at `now` (monotonic seconds).

    1. Kill what did not stop in time and what did not become ready in time.
    2. While shutting down: stop what nothing alive depends on.
    3. Else start what may start; if nothing is, restart one stale component.
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
    """Restart one at a time, so that the others keep working."""
    if any(states[c.name].phase in (Phase.STOPPING, Phase.STARTING) for c in components):
        return []
    stale = (c.name for c in components if states[c.name].phase is Phase.READY and states[c.name].stale)
    return [SupervisorStep("stop", name) for name in stale][:1]
