"""Faults under load: nothing accepted is lost, no quota exceeded, every callback delivered.

The short form runs with every test run. `make chaos` sets CHAOS_TASKS: each fault in turn, then at random, until
nearly all tasks have run. CHAOS_FAULTS chooses faults by name or by the first word of it: `redis,postgres-frozen`.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos import fake_time, report
from tests.chaos.auditor import Recovery, audit
from tests.chaos.clock_faults import CLOCK_FAULTS
from tests.chaos.fault import Fault, chosen
from tests.chaos.process_faults import PROCESS_FAULTS
from tests.chaos.receiver_faults import RECEIVER_FAULTS
from tests.chaos.server_faults import SERVER_FAULTS
from tests.chaos.upstream_faults import UPSTREAM_FAULTS
from tests.chaos.world import SHORT, ChaosWorld, Shape
from tests.stack import Key, NotInTime, wait_until

TASKS = int(os.environ.get("CHAOS_TASKS", "0"))
IN_SHORT = "worker-killed,leader-killed,api-killed,callbacks-killed,redis-flushed,redis-cut"
SHORT_TASKS = 500
EVERY = [*PROCESS_FAULTS, *SERVER_FAULTS, *UPSTREAM_FAULTS, *RECEIVER_FAULTS, *CLOCK_FAULTS]
# Slow enough for 5,000 tasks to last through every fault; one key so small that without it there is 90 % of the pace.
LONG = Shape(
    (
        Key("k1", rpm=192, concurrency=60),
        Key("k2", rpm=150, concurrency=50),
        Key("k3", rpm=18, concurrency=10),
    ),
    latency=1.0,
    ahead=150,
    tls=True,
)

Say = Callable[[str], None]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Print at once, past pytest."""

    def print_now(line: str) -> None:
        with capsys.disabled():
            print(line, flush=True)

    return print_now


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Callable[[Shape], ChaosWorld]]:
    made: list[ChaosWorld] = []

    def make(shape: Shape) -> ChaosWorld:
        made.append(ChaosWorld(tmp_path, shape))
        return made[-1].start()

    yield make
    for world in made:
        world.close()


@pytest.mark.timeout(600)
@pytest.mark.skipif(TASKS > 0, reason="CHAOS_TASKS asks for the long form")
def test_every_law_holds_under_kills_flushes_and_cut_connections(
    make_world: Callable[[Shape], ChaosWorld], say: Say
) -> None:
    world = make_world(SHORT)
    load = world.submit(SHORT_TASKS)
    for fault in chosen(EVERY, IN_SHORT):
        _wait_for_sends(world, 20)
        fault.act(world)
    load.finish(within=200)
    world.settle(within=240)
    findings = audit(world.evidence())
    say("\n" + "\n".join([*map(str, findings), f"     restarted by its supervisor: {dict(world.restarts)}"]))
    assert len(load.accepted) == SHORT_TASKS
    assert [str(finding) for finding in findings if not finding.held] == []


@pytest.mark.timeout(3600)
@pytest.mark.skipif(TASKS == 0, reason="the long form: make chaos")
def test_every_law_holds_under_every_fault(make_world: Callable[[Shape], ChaosWorld], say: Say) -> None:
    faults = chosen(EVERY, os.environ.get("CHAOS_FAULTS", ""))
    stepped = any(fault in CLOCK_FAULTS for fault in faults)
    if stepped and fake_time.library() is None:
        say(
            "\nskipped: clock-forward, clock-back: libfaketime is not installed (on Debian: apt-get install faketime)"
        )
        faults, stepped = [fault for fault in faults if fault not in CLOCK_FAULTS], False
    world = make_world(replace(LONG, stepped=stepped))
    load = world.submit(TASKS)
    recoveries = _all_in_turn_then_at_random(world, faults, say)
    load.finish(within=300)
    say("all submitted; waiting for everything to come to its end")
    world.settle(within=600)
    findings = audit(replace(world.evidence(), recoveries=recoveries))
    say(f"\n{report.laws(findings)}\n\n{report.faults(recoveries)}\n")
    say(f"restarted by its supervisor: {dict(world.restarts)}")
    assert len(load.accepted) == TASKS
    assert [str(finding) for finding in findings if not finding.held] == []


def _all_in_turn_then_at_random(world: ChaosWorld, faults: Sequence[Fault], say: Say) -> list[Recovery]:
    """Each once; then whichever, as long as tasks are left to measure the pace with."""
    assert world.load is not None
    chance, began = random.Random(20261121), time.monotonic()
    _wait_for_sends(world, 40)
    recoveries: list[Recovery] = []
    left = list(faults)
    while left or not _nearly_done(world):
        fault = left.pop(0) if left else chance.choice(faults)
        recoveries.append(_carry_out(world, fault))
        done, seconds = len(recoveries), int(time.monotonic() - began)
        back = recoveries[-1].back_after
        say(
            f"[{done:3d} of {len(faults)}{'' if left else ', at random'}; {seconds // 60:02d}:{seconds % 60:02d};"
            f" {len(world.load.accepted)} accepted, {world.watch.tasks} sent] {fault.name}: lasted"
            f" {recoveries[-1].lasted:.1f} s, {'not back' if back is None else f'back after {back:.1f} s'}"
        )
    return recoveries


def _carry_out(world: ChaosWorld, fault: Fault) -> Recovery:
    began = time.time()
    fault.act(world)
    ended = time.time()
    return Recovery(fault.name, fault.text, ended - began, world.back_after(ended), fault.back_within)


def _nearly_done(world: ChaosWorld) -> bool:
    """Too few are left for a fault to be measured by."""
    return world.watch.tasks > TASKS - 2 * world.shape.ahead


def _wait_for_sends(world: ChaosWorld, more: int) -> None:
    """Wait until the upstream has seen so many more calls, or all there are."""
    load, least = world.load, world.watch.sent + more
    assert load is not None
    try:
        wait_until(lambda: world.watch.sent >= least or (load.done and world.open_tasks() == 0), every=0.1)
    except NotInTime:
        raise NotInTime(world.stack.logs()) from None
