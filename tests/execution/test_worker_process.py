"""A real worker process: its states in Flower, its remote commands, a thousand calls at once, its end."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.composition.worker import build_worker, refuse_queues
from app.execution.store import workers
from app.settings import ConfigError
from app.tasks.domain.attempt import Message
from simulator.config import SimulatorConfig
from simulator.faults import Fault
from simulator.latency import Latency
from tests.execution.flower import Flower
from tests.execution.world import WorkerWorld
from tests.servers import RedisServer
from tests.stack import PATIENCE, wait_until
from tests.upstreams.wire import Peer, WireServer, answer

pytestmark = pytest.mark.xdist_group("worker-process")  # one world for all of them

ROOT = Path(__file__).parents[2]
CELERY = [sys.executable, "-m", "celery", "-A", "workers", "worker"]
FAULTS = (
    Fault("500", contains="once broken", count=1, message="upstream says XYZZY"),
    Fault("400", contains="bad", message="upstream says XYZZY"),
    Fault("500", contains="echo", count=1, message="your key sk-key-one is XYZZY"),
)


HELD = """
[[upstream]]
name = "held"
base_url = "{url}/v1"
[[key]]
name = "held"
upstream = "held"
secret = "env:KEY_KEY_ONE"
[[model]]
name = "held"
tiers = [["held:any"]]
"""


class Held(WireServer):
    """An upstream whose calls end when a test says so, by a good answer or without one."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.answers = True
        super().__init__(self._hold)

    def next_call(self, *, answers: bool) -> None:
        """How the next call is to end."""
        self.begun.clear()
        self.may_end.clear()
        self.answers = answers

    def _hold(self, peer: Peer) -> None:
        while peer.read_request() is not None:
            self.begun.set()
            self.may_end.wait(PATIENCE)
            if not self.answers:
                peer.reset()
                return
            peer.send(answer())


def simulated(seconds: float = 0.0, *faults: Fault) -> SimulatorConfig:
    """Calls take `seconds`."""
    return SimulatorConfig(keys={"sk-key-one": "key-one"}, latency=Latency(mean=seconds), faults=faults)


@pytest.fixture(scope="module")
def held() -> Iterator[Held]:
    with Held() as server:
        yield server
        server.may_end.set()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, held: Held) -> Iterator[WorkerWorld]:
    """One worker process for many tests, started as Celery's own documentation says."""
    folder = tmp_path_factory.mktemp("worker")
    redis_server = RedisServer(folder / "redis")
    made = WorkerWorld(
        folder / "stack",
        f"sqlite:///{folder}/penstock.db",
        redis_server.url,
        upstream=simulated(0.0, *FAULTS),
        more=HELD.format(url=held.url),
    )
    try:
        with (folder / "stack" / "w1.log").open("ab") as log:
            made.stack.processes["w1"] = subprocess.Popen(
                [*CELERY, "-c", "1000"], cwd=ROOT, env=made.stack.environment, stdout=log, stderr=log
            )
        yield made.start(ready=1)
    finally:
        made.close()
        redis_server.stop()


@pytest.fixture(scope="module")
def flower(world: WorkerWorld) -> Iterator[Flower]:
    with Flower(world.parts.celery) as listening:
        yield listening


def in_flight(world: WorkerWorld) -> int:
    return int(world.simulator.stats()["totals"]["in_flight"])


# What Flower sees


def test_a_success_is_known_from_its_submission_to_its_end(world: WorkerWorld, flower: Flower) -> None:
    task_id = world.submit("SECRET good")
    for kind in ("task-sent", "task-succeeded"):
        flower.wait_for(task_id, kind)
    # Who submits tells of it on a way of its own, after the message is out.
    told = [kind for kind in flower.kinds(task_id) if kind != "task-sent"]
    assert list(dict.fromkeys(told)) == ["task-received", "task-started", "task-succeeded"]
    assert world.wait_for(task_id, "succeeded").simulated


def test_a_failure_is_a_failure_in_words_of_our_own(world: WorkerWorld, flower: Flower) -> None:
    task_id = world.submit("SECRET bad")
    failed = flower.wait_for(task_id, "task-failed")
    assert failed["exception"] == "TaskFailed('invalid_request')"
    assert world.wait_for(task_id, "failed").error_message == "upstream says XYZZY"


def test_a_call_that_will_be_repeated_is_a_retry(world: WorkerWorld, flower: Flower) -> None:
    task_id = world.submit("SECRET once broken")
    assert "CallFailed('unavailable')" in flower.wait_for(task_id, "task-retried")["exception"]
    flower.wait_for(task_id, "task-succeeded")
    world.wait_for(task_id, "succeeded")
    assert [a.outcome for a in world.attempts(task_id)] == ["unavailable", "succeeded"]


def test_no_prompt_no_secret_and_no_word_of_an_upstream_is_seen_or_logged(
    world: WorkerWorld, flower: Flower
) -> None:
    task_id = world.submit("SECRET echo")
    wait_until(lambda: world.attempts(task_id))
    seen = str(flower.heard) + world.stack.logs()
    assert task_id in seen
    for hidden in ("SECRET", "XYZZY", "sk-key-one"):
        assert hidden not in seen
    assert "sk-key-one" not in str(world.attempts(task_id))


# Remote commands


def test_active_queues_names_backlog_queues_too(world: WorkerWorld) -> None:
    """One that nobody serves, so that it stays."""
    message = Message("task_0", 1, "unserved", "alice", "backlog.unserved.alice", 3, 10)
    assert not world.parts.publisher.publish([message])
    answers = world.parts.celery.control.inspect(timeout=60, limit=1).active_queues()
    assert answers is not None
    (queues,) = answers.values()
    assert {"key.key-one", "backlog.unserved.alice"} <= {queue["name"] for queue in queues}


def test_a_revoke_cancels_what_waits(world: WorkerWorld, flower: Flower) -> None:
    waiting = [world.submit(model="unserved") for _ in range(3)]
    world.parts.celery.control.revoke(waiting[:2], terminate=True)
    for task_id in waiting[:2]:
        world.wait_for(task_id, "cancelled")
        flower.wait_for(task_id, "task-revoked")
    assert world.task(waiting[2]).status == "queued"
    assert world.redis.hmget("penstock:place", *waiting[:2]) == [None, None]


def test_a_revoke_of_a_running_call_keeps_a_success_that_still_comes(world: WorkerWorld, held: Held) -> None:
    held.next_call(answers=True)
    task_id = revoked_while_it_runs(world, held)
    held.may_end.set()
    world.wait_for(task_id, "succeeded")


def test_a_revoked_call_that_fails_ends_cancelled(world: WorkerWorld, held: Held, flower: Flower) -> None:
    held.next_call(answers=False)
    task_id = revoked_while_it_runs(world, held)
    held.may_end.set()
    world.wait_for(task_id, "cancelled")
    flower.wait_for(task_id, "task-revoked")


def revoked_while_it_runs(world: WorkerWorld, held: Held) -> str:
    task_id = world.submit(model="held")
    assert held.begun.wait(PATIENCE)
    world.parts.celery.control.revoke(task_id)
    wait_until(lambda: world.task(task_id).cancel_requested, what=world.stack.logs())
    return task_id


# Many at once


def test_a_thousand_calls_are_in_flight_in_one_process(world: WorkerWorld) -> None:
    """Calls that outlast the test, however busy the machine; ended with their world."""
    world.simulator.configure(latency={"mean": 300.0})
    for number in range(1000):
        world.submit(f"prompt {number}")
    wait_until(lambda: in_flight(world) == 1000, every=0.2)
    memory = resident_mib(world.stack.processes["w1"].pid)
    print(f"{in_flight(world)} calls in flight in {memory} MiB")
    assert memory < 400
    assert world.simulator.stats()["totals"]["refused"] == {}


def resident_mib(pid: int) -> int:
    said = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True)
    return int(said.stdout) // 1024


# The end of a process


@pytest.fixture
def make_world(tmp_path: Path, sqlite_url: str, redis_url: str) -> Iterator[Callable[..., WorkerWorld]]:
    worlds: list[WorkerWorld] = []

    def make(upstream: SimulatorConfig, more: str = "") -> WorkerWorld:
        worlds.append(WorkerWorld(tmp_path / "stack", sqlite_url, redis_url, upstream=upstream, more=more))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


def ended_cleanly(world: WorkerWorld) -> bool:
    """Nothing is left for the leader to find out."""
    left = world.redis.hlen("penstock:permits") + world.redis.hlen("penstock:workers")
    return not left and not world.parts.database.read(workers.beats)


def test_a_call_that_ends_in_time_is_kept(make_world: Callable[..., WorkerWorld]) -> None:
    world = make_world(simulated(1.5), "[worker]\ndrain_seconds = 20").start("w1")
    task_id = world.submit()
    wait_until(lambda: in_flight(world))
    assert world.stack.kill("w1", signal.SIGTERM) == 0
    assert world.task(task_id).status == "succeeded"
    assert ended_cleanly(world)


def test_a_call_that_takes_too_long_is_cut_off_and_given_back(make_world: Callable[..., WorkerWorld]) -> None:
    world = make_world(simulated(60), "[worker]\ndrain_seconds = 0.5").start("w1")
    task_id = world.submit()
    wait_until(lambda: in_flight(world))
    assert world.stack.kill("w1", signal.SIGTERM) == 0
    row = world.task(task_id)
    assert (row.status, row.counted, row.lost) == ("queued", 0, 0)
    assert [(a.outcome, a.counted) for a in world.attempts(task_id)] == [("returned", False)]
    assert ended_cleanly(world)


# What is refused at the start


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["-Q", "backlog.deepseek-flash.alice"], "only the dispatcher releases tasks"),
        (["-P", "solo"], "start it with -P threads"),
    ],
)
def test_a_wrong_start_is_refused_with_a_clear_word(
    world: WorkerWorld, arguments: list[str], word: str
) -> None:
    done = subprocess.run(
        [*CELERY, *arguments],
        cwd=ROOT,
        env=world.stack.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert word in done.stderr


@pytest.mark.parametrize(
    ("queue", "word"),
    [
        ("backlog.deepseek-flash.alice", "only the dispatcher releases tasks"),
        ("celery", "not a queue of Penstock"),
        ("key.nobody", "there is no [[key]] of that name"),
        ("key.key-one", None),
        ("callbacks", None),
    ],
)
def test_only_queues_of_ours_may_be_consumed(world: WorkerWorld, queue: str, word: str | None) -> None:
    problem = refuse_queues(world.parts.settings, ["key.key-one", queue])
    assert (problem is None) if word is None else (problem is not None and word in problem)


def test_an_unset_secret_is_refused_with_the_line_of_its_key(world: WorkerWorld) -> None:
    """KEY_KEY_ONE is set for the processes of the stack alone."""
    with pytest.raises(ConfigError, match=r"penstock\.toml:\d+: .*KEY_KEY_ONE is not set"):
        build_worker(world.parts, ["key.key-one"], 4)
