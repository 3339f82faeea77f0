"""What the supervisor does next: a pure function of where everything stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from app.cli.supervisor.component import Component
from app.cli.supervisor.state import Phase, ProcessState


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
