"""Our own processes: killed, and told to end."""

from __future__ import annotations

import psutil

from tests.chaos.fault import Fault
from tests.chaos.world import ChaosWorld
from tests.cli.running import lives
from tests.ports import kept_port
from tests.stack import wait_until

SAID = "Penstock is ready."


def kill_worker(world: ChaosWorld) -> None:
    """In the middle of its calls, if any come."""
    wait_until(lambda: world.in_flight() > 0 or world.load is None or world.load.done, every=0.02)
    world.kill("worker-1")


def kill_leader(world: ChaosWorld) -> None:
    """Whichever leads, and the one that would take over."""
    for name in ("dispatcher-1", "dispatcher-2"):
        world.kill(name)


def kill_api(world: ChaosWorld) -> None:
    world.kill("api-1")


def kill_callback_worker(world: ChaosWorld) -> None:
    world.kill("callbacks")


def drain_worker(world: ChaosWorld) -> None:
    assert world.drain("worker-2") == 0, "SIGTERM drains and exits with 0"


def kill_supervisor(world: ChaosWorld) -> None:
    """`penstock up` joins in, takes its part of the work, and is killed: all that it started dies with it."""
    data = world.folder / "up"
    ports = ("--port", str(kept_port()), "--flower-port", str(kept_port()))
    log = world.stack.folder / "up.log"
    told = len(log.read_text()) if log.exists() else 0  # by the one before
    process = world.stack.start("up", "up", "--data", str(data), *ports, PENSTOCK_DATA=str(data))
    world.stack.processes.pop("up")  # its end is ours
    family: list[psutil.Process] = []
    try:
        wait_until(lambda: SAID in log.read_text()[told:] or process.poll() is not None, what="penstock up")
        assert process.poll() is None, log.read_text()[-3000:]
        family = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
        process.wait(60)
        wait_until(lambda: not any(map(lives, family)), what="its processes die with it")
        world.count_in_flight([one.pid for one in family])


PROCESS_FAULTS = [
    Fault("worker-killed", "kill -9 of a worker in the middle of its calls", kill_worker),
    Fault("leader-killed", "kill -9 of both dispatchers", kill_leader),
    Fault("api-killed", "kill -9 of an API process", kill_api),
    Fault("callbacks-killed", "kill -9 of the callback worker", kill_callback_worker),
    Fault("supervisor-killed", "kill -9 of `penstock up`; its processes die with it", kill_supervisor),
    Fault("worker-drained", "SIGTERM of a worker: it drains and exits with 0", drain_worker),
]
