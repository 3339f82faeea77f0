"""What the supervisor decides, without a process."""

from hypothesis import given
from hypothesis import strategies as st

from app.cli.supervisor import decisions as states
from app.cli.supervisor.decisions import (
    Component,
    Phase,
    ProcessState,
    RestartPolicy,
    SupervisorStep,
    next_steps,
)

POLICY = RestartPolicy(first_seconds=0.5, most_seconds=30, steady_seconds=30, tries=3)
GROUND = Component("ground", ("true",), stop_seconds=10)
HOUSE = Component("house", ("true",), after=("ground",), start_seconds=60)
PARTS = (GROUND, HOUSE)


def ended(
    state: ProcessState, code: int = 1, now: float = 100.0, component: Component = GROUND
) -> ProcessState:
    return states.exited(component, state, code, now, ending=False, policy=POLICY)


def steps(now: float = 100.0, ending: bool = False, **named: ProcessState) -> list[SupervisorStep]:
    return next_steps(PARTS, named, now, ending=ending)


def test_what_depends_on_something_starts_when_that_is_ready() -> None:
    waiting = ProcessState()
    assert steps(ground=waiting, house=waiting) == [SupervisorStep("start", "ground")]
    assert steps(ground=states.started(waiting, 99), house=waiting) == []
    assert steps(ground=ProcessState(Phase.READY), house=waiting) == [SupervisorStep("start", "house")]
    assert steps(ground=ProcessState(Phase.FINISHED), house=waiting) == [SupervisorStep("start", "house")]


def test_what_others_depend_on_is_stopped_last() -> None:
    ready = ProcessState(Phase.READY)
    assert steps(ending=True, ground=ready, house=ready) == [SupervisorStep("stop", "house")]
    assert steps(ending=True, ground=ready, house=ProcessState(Phase.STOPPING, since=99)) == []
    assert steps(ending=True, ground=ready, house=ProcessState(Phase.STOPPED)) == [
        SupervisorStep("stop", "ground")
    ]


def test_nothing_is_started_on_the_way_out() -> None:
    assert steps(ending=True, ground=ProcessState(), house=ProcessState(Phase.BACKOFF, again_at=0)) == []


def test_what_does_not_stop_in_its_time_is_killed() -> None:
    ready, stopping = ProcessState(Phase.READY), ProcessState(Phase.STOPPING, since=90)
    assert steps(now=99, ending=True, ground=stopping, house=ProcessState(Phase.STOPPED)) == []
    assert steps(now=100, ending=True, ground=stopping, house=ProcessState(Phase.STOPPED)) == [
        SupervisorStep("kill", "ground")
    ]
    assert SupervisorStep("kill", "ground") in steps(now=100, ground=stopping, house=ready)


def test_what_does_not_become_ready_in_its_time_is_killed() -> None:
    starting = ProcessState(Phase.STARTING, since=30)
    assert SupervisorStep("kill", "house") in steps(now=90, ground=ProcessState(Phase.READY), house=starting)


def test_pauses_before_a_restart_double_up_to_a_cap() -> None:
    pauses = [POLICY.delay(failures) for failures in range(1, 9)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert POLICY.delay(10_000) == 30


def test_one_that_crashed_starts_again_after_its_pause() -> None:
    after = ended(ProcessState(Phase.READY, since=90, was_ready=True))
    assert (after.phase, after.failures, after.again_at) == (Phase.BACKOFF, 1, 100.5)
    assert steps(now=100.4, ground=after, house=ProcessState(Phase.READY)) == []
    assert steps(now=100.5, ground=after, house=ProcessState(Phase.READY)) == [
        SupervisorStep("start", "ground")
    ]


def test_failures_are_forgotten_after_a_steady_time() -> None:
    crashed_early = ended(ProcessState(Phase.READY, since=80, failures=4, was_ready=True))
    crashed_late = ended(ProcessState(Phase.READY, since=70, failures=4, was_ready=True))
    assert (crashed_early.failures, crashed_late.failures) == (5, 1)


def test_one_that_never_worked_is_given_up_after_three_tries() -> None:
    state = ProcessState()
    for expected in (Phase.BACKOFF, Phase.BACKOFF, Phase.GAVE_UP):
        state = ended(states.started(state, 99))
        assert state.phase is expected


def test_a_wrong_configuration_is_given_up_at_once() -> None:
    assert ended(ProcessState(Phase.STARTING), code=3).phase is Phase.GAVE_UP


def test_one_that_worked_before_is_never_given_up() -> None:
    state = ProcessState(Phase.STARTING, failures=100, was_ready=True)
    assert ended(state, code=3).phase is Phase.BACKOFF


def test_a_single_run_that_ended_well_lets_the_others_start() -> None:
    once = Component("once", ("true",), once=True)
    assert ended(ProcessState(Phase.STARTING), code=0, component=once).phase is Phase.FINISHED
    assert ended(ProcessState(Phase.STARTING), code=1, component=once).phase is Phase.BACKOFF


def test_a_reload_renews_one_after_the_other_and_counts_no_failure() -> None:
    stale, ready = ProcessState(Phase.READY, stale=True), ProcessState(Phase.READY)
    assert steps(ground=stale, house=stale) == [SupervisorStep("stop", "ground")]
    stopping = states.stop_requested(stale, 100)
    assert steps(ground=stopping, house=stale) == []
    renewed = ended(stopping, code=0)
    assert (renewed.phase, renewed.failures) == (Phase.WAITING, 0)
    starting = states.started(renewed, 101)
    assert (starting.stale, steps(ground=starting, house=stale)) == (False, [])
    assert steps(ground=ready, house=stale) == [SupervisorStep("stop", "house")]


@given(st.lists(st.tuples(st.sampled_from(["ground", "house"]), st.booleans()), max_size=40))
def test_whatever_happens_a_dependent_runs_only_on_ready_ground_and_the_end_leaves_nothing(
    events: list[tuple[str, bool]],
) -> None:
    """Things become ready or crash in any order; then comes the end."""
    parts = {part.name: part for part in PARTS}
    now = {name: ProcessState() for name in parts}
    clock = 0.0
    for name, well in events:
        clock += 40
        for step in next_steps(PARTS, now, clock, ending=False):
            if step.action == "start":
                assert all(now[other].serving for other in parts[step.name].after)
                now[step.name] = states.started(now[step.name], clock)
        if now[name].phase is Phase.STARTING and well:
            now[name] = states.became_ready(now[name], clock)
        elif now[name].alive and not well:
            now[name] = states.exited(parts[name], now[name], 1, clock, ending=False, policy=POLICY)
    for _ in range(4):
        for step in next_steps(PARTS, now, clock, ending=True):
            now[step.name] = states.exited(
                parts[step.name], now[step.name], 0, clock, ending=True, policy=POLICY
            )
    assert not any(state.alive for state in now.values())
