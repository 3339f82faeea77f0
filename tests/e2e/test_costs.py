"""Pay once, pay less, on a real stack: two API processes, two workers, a bill to compare with."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import urllib3

from app.adapters.embedded_redis import free_port
from app.simulator.client import SimulatorProcess
from app.simulator.config import SimulatorConfig
from app.simulator.faults import Fault
from app.simulator.latency import Latency
from tests.servers import PostgresServer, RedisServer
from tests.stack import Caller, Key, Stack, configuration, key_environment, wait_until

KEYS = [Key("main")]
COLD = {"temperature": 0}


class World:
    """The stack, its upstream, and clients."""

    def __init__(self, folder: Path, database_url: str, redis_url: str) -> None:
        self.upstream = SimulatorProcess(
            SimulatorConfig(keys={"sk-main": "main"}, latency=Latency(mean=0.3), marked=False)
        )
        config = configuration(self.upstream.base_url, KEYS)
        self.stack = Stack(
            folder,
            config.replace('name = "sim"', 'name = "sim"\nprices = "deepseek"', 1),
            database_url=database_url,
            redis_url=redis_url,
            environment=key_environment(KEYS),
        )
        self.other_port = free_port()

    def start(self) -> None:
        self.stack.start_all(workers=2)
        self.stack.start("api-2", "api", "--port", str(self.other_port))
        wait_until(self._other_answers, within=40)

    def client(self, name: str) -> tuple[Caller, Caller]:
        """A new client, at each of the two API processes."""
        made = self.stack.penstock("clients", "add", name)
        key = next(word for word in made.split() if word.startswith("pk_"))
        return Caller(self.stack.url, key), Caller(self._other, key)

    @property
    def calls(self) -> int:
        return int(self.upstream.stats()["totals"]["received"])

    @property
    def bill(self) -> int:
        return int(self.upstream.stats()["totals"]["bill_pico_usd"])

    @property
    def _other(self) -> str:
        return f"http://127.0.0.1:{self.other_port}"

    def _other_answers(self) -> bool:
        try:
            return Caller(self._other, "").call("GET", "/healthz").status == 200
        except urllib3.exceptions.HTTPError:  # not listening yet
            return False


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer, redis_server: RedisServer
) -> Iterator[World]:
    url = postgres_server.create_database()
    world = World(tmp_path_factory.mktemp("costs"), url, redis_server.url)
    with world.upstream, world.stack:
        world.start()
        yield world


def picos(task: dict[str, Any]) -> int:
    """A task's exact cost."""
    whole, _, rest = task["cost"]["amount"].partition(".")
    return int(whole) * 10**12 + int(rest.ljust(12, "0"))


def test_five_hundred_identical_tasks_over_two_api_processes_make_one_call(world: World) -> None:
    alice = world.client("identical")
    before = world.calls
    world.upstream.configure(latency={"mean": 6.0})

    def submit(number: int) -> str:
        return alice[number % 2].submit("What is a penstock?", parameters=COLD)

    with ThreadPoolExecutor(16) as threads:
        ids = list(threads.map(submit, range(500)))
    world.upstream.configure(latency={"mean": 0.3})
    done = [alice[0].task(name, wait=30) for name in ids]
    assert {task["status"] for task in done} == {"succeeded"}
    assert len({task["id"] for task in done}) == 500
    assert world.calls - before == 1
    assert len({task["result"]["id"] for task in done}) == 1
    assert sum(not task["coalesced"] and not task["cached"] for task in done) == 1
    assert len({task["finished_at"] for task in done if not task["cached"]}) == 1
    (row,) = alice[0].call("GET", "/v1/usage").body["data"]
    assert (row["calls"], row["tasks"]) == (1, 500)
    assert sum(map(picos, done)) == picos({"cost": {"amount": row["cost"]}}) > 0


def test_what_is_kept_is_answered_at_submission_to_its_own_client_alone(world: World) -> None:
    bob, carol = world.client("bob")[0], world.client("carol")[0]
    first = bob.task(bob.submit("Kept?", parameters=COLD), wait=30)
    before = world.calls
    hit = bob.call("POST", "/v1/tasks", {"prompt": "Kept?", "parameters": {"temperature": 0.0}}).body
    assert (hit["status"], hit["cached"], hit["cost"]["micros"]) == ("succeeded", True, 0)
    assert hit["result"] == first["result"]
    assert world.calls == before
    hers = carol.task(carol.submit("Kept?", parameters=COLD), wait=30)
    assert (hers["cached"], hers["coalesced"], world.calls) == (False, False, before + 1)
    refreshed = bob.task(bob.submit("Kept?", parameters=COLD, cache={"mode": "refresh"}), wait=30)
    assert (refreshed["cached"], world.calls) == (False, before + 2)


def test_a_batch_of_repeats_pays_once_for_each_prompt(world: World) -> None:
    dave = world.client("dave")[0]
    before = world.calls
    requests = [{"prompt": f"Line {n % 5}", "parameters": COLD} for n in range(60)]
    answer = dave.call("POST", "/v1/batch", {"requests": requests})
    done = dave.finished_batch(answer.body["id"], within=60)
    assert done["request_counts"]["completed"] == 60
    assert world.calls - before == 5


def test_when_the_first_fails_another_takes_over(world: World) -> None:
    erin = world.client("erin")[0]
    world.upstream.set_faults(Fault("400", count=1, contains="Who takes over?"))
    ids = [erin.submit("Who takes over?", parameters=COLD) for _ in range(5)]
    done = [erin.task(name, wait=30) for name in ids]
    world.upstream.set_faults()
    assert sorted(task["status"] for task in done) == ["failed", *["succeeded"] * 4]


def test_costs_equal_the_usage_report_and_the_upstreams_own_bill(world: World) -> None:
    frank = world.client("frank")[0]
    before = world.bill
    world.upstream.set_faults(
        Fault("500", rate=0.1), Fault("429-retry-after", rate=0.05), Fault("no-capacity", rate=0.05)
    )
    prefix = "You are a careful clerk. " * 40
    requests = [
        {
            "messages": [
                {"role": "system", "content": prefix},
                {"role": "user", "content": f"Case {n % 40}: 请说明。"},
            ],
            "parameters": COLD if n % 2 else {},
        }
        for n in range(120)
    ]
    answer = frank.call("POST", "/v1/batch", {"requests": requests})
    frank.finished_batch(answer.body["id"], within=90)
    world.upstream.set_faults()
    tasks: list[dict[str, Any]] = []
    while page := frank.call(
        "GET", "/v1/tasks?limit=100" + (f"&after={tasks[-1]['id']}" if tasks else "")
    ).body["data"]:
        tasks += page
    paid = sum(picos(task) for task in tasks if task["cost"] is not None)
    rows = frank.call("GET", "/v1/usage?by=key,day").body["data"]
    reported = sum(picos({"cost": {"amount": row["cost"]}}) for row in rows if row["currency"] == "USD")
    assert paid == reported == world.bill - before > 0
    assert sum(row["cached_tokens"] for row in rows) > 0
    assert all(row["saved_prompt_cache"] != "0.00" for row in rows if row["cached_tokens"])
