"""Pay once, pay less, on a real stack: two API processes, two workers, a bill to compare with."""

import csv
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis
import urllib3

from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from simulator.faults import Fault
from simulator.latency import Latency
from tests.callbacks.receivers import RawReceiver, answering
from tests.ports import kept_port
from tests.servers import PostgresServer, RedisServer
from tests.stack import Caller, Key, Stack, configuration, key_environment, wait_until

KEYS = [Key("main", rpm=12_000, burst=200, concurrency=100)]
COLD = {"temperature": 0}
LATENCY = 0.05  # seconds
MORE = """
[callbacks]
allow_networks = ["127.0.0.0/8"]
ports = ["1024-65535"]

[retry.default]
attempts = 8
base = 0.05
cap = 0.2
"""


class World:
    """The stack, its upstream, and clients."""

    def __init__(self, folder: Path, database_url: str, redis_url: str) -> None:
        self.upstream = SimulatorProcess(
            SimulatorConfig(keys={"sk-main": "main"}, latency=Latency(mean=LATENCY), marked=False)
        )
        config = configuration(self.upstream.base_url, KEYS)
        self.stack = Stack(
            folder,
            config.replace('name = "sim"', 'name = "sim"\nprices = "deepseek"', 1) + MORE,
            database_url=database_url,
            redis_url=redis_url,
            environment=key_environment(KEYS),
        )
        self.other_port = kept_port()

    def start(self) -> None:
        self.stack.start_all(workers=2)
        self.stack.start("api-2", "api", "--port", str(self.other_port))
        wait_until(self._other_answers)

    def client(self, name: str) -> tuple[Caller, Caller]:
        """A new client, at each of the two API processes."""
        made = self.stack.penstock("clients", "add", name)
        key = next(word for word in made.split() if word.startswith("pk_"))
        return Caller(self.stack.url, key), Caller(self._other, key)

    def command(self, caller: Caller, *arguments: str) -> str:
        """What `penstock` prints for a client."""
        environment = {"PENSTOCK_URL": caller.url, "PENSTOCK_API_KEY": caller.key}
        done = subprocess.run(
            self.stack._command(arguments),
            env={**self.stack.environment, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

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
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()  # what an earlier stack has left there
    with world.upstream, world.stack:
        world.start()
        yield world


def picos(task: dict[str, Any]) -> int:
    """A task's exact cost."""
    whole, _, rest = task["cost"]["amount"].partition(".")
    return int(whole) * 10**12 + int(rest.ljust(12, "0"))


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_five_hundred_identical_tasks_over_two_api_processes_make_one_call(world: World) -> None:
    alice = world.client("identical")
    before = world.calls
    world.upstream.configure(latency={"mean": 6.0})  # what comes later than that is answered from the cache

    answered_at: dict[str, float] = {}

    def submit(number: int) -> str:
        name = alice[number % 2].submit("What is a penstock?", parameters=COLD)
        answered_at[name] = time.time()
        return name

    with ThreadPoolExecutor(16) as threads:
        ids = list(threads.map(submit, range(500)))
    world.upstream.configure(latency={"mean": LATENCY})
    done = [alice[0].task(name, wait=60) for name in ids]
    assert {task["status"] for task in done} == {"succeeded"}
    assert len({task["id"] for task in done}) == 500
    assert world.calls - before == 1
    assert len({task["result"]["id"] for task in done}) == 1
    assert sum(not task["coalesced"] and not task["cached"] for task in done) == 1
    end = min(task["finished_at"] for task in done)
    # Whose row stood, as the 202 says, when the one call ended.
    waited = [task for task in done if answered_at[task["id"]] < moment(end).timestamp()]
    assert len(waited) >= 100
    assert {task["finished_at"] for task in waited} == {end}, "in one transaction"
    (row,) = alice[0].call("GET", "/v1/usage").body["data"]
    assert (row["calls"], row["tasks"]) == (1, 500)
    assert sum(map(picos, done)) == picos({"cost": {"amount": row["cost"]}}) > 0


def test_what_is_kept_is_answered_at_submission_to_its_own_client_alone(world: World) -> None:
    bob, carol = world.client("bob")[0], world.client("carol")[0]
    first = bob.task(bob.submit("Kept?", parameters=COLD), wait=60)
    before = world.calls
    hit = bob.call("POST", "/v1/tasks", {"prompt": "Kept?", "parameters": {"temperature": 0.0}}).body
    assert (hit["status"], hit["cached"], hit["cost"]["micros"]) == ("succeeded", True, 0)
    assert hit["result"] == first["result"]
    assert world.calls == before
    hers = carol.task(carol.submit("Kept?", parameters=COLD), wait=60)
    assert (hers["cached"], hers["coalesced"], world.calls) == (False, False, before + 1)
    refreshed = bob.task(bob.submit("Kept?", parameters=COLD, cache={"mode": "refresh"}), wait=60)
    assert (refreshed["cached"], world.calls) == (False, before + 2)


def test_a_batch_of_repeats_pays_once_for_each_prompt(world: World) -> None:
    dave = world.client("dave")[0]
    before = world.calls
    requests = [{"prompt": f"Line {n % 5}", "parameters": COLD} for n in range(60)]
    answer = dave.call("POST", "/v1/batch", {"requests": requests})
    done = dave.finished_batch(answer.body["id"])
    assert done["request_counts"]["completed"] == 60
    assert world.calls - before == 5


def test_when_the_first_fails_another_takes_over(world: World) -> None:
    erin = world.client("erin")[0]
    world.upstream.set_faults(Fault("400", count=1, contains="Who takes over?"))
    ids = [erin.submit("Who takes over?", parameters=COLD) for _ in range(5)]
    done = [erin.task(name, wait=60) for name in ids]
    world.upstream.set_faults()
    assert sorted(task["status"] for task in done) == ["failed", *["succeeded"] * 4]


def test_costs_equal_the_usage_report_and_the_upstreams_own_bill(world: World) -> None:
    frank = world.client("frank")[0]
    before = world.bill
    world.upstream.set_faults(
        Fault("500", rate=0.1),
        Fault("429-retry-after", rate=0.05, retry_after=0.2),
        Fault("no-capacity", rate=0.05),
    )
    prefix = "You are a careful clerk. " * 40
    requests = [
        {
            "messages": [
                {"role": "system", "content": prefix},
                {"role": "user", "content": f"Case {n % 20}: 请说明。"},
            ],
            "parameters": COLD if n % 2 else {},
        }
        for n in range(60)
    ]
    answer = frank.call("POST", "/v1/batch", {"requests": requests})
    frank.finished_batch(answer.body["id"])
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


def test_a_hit_is_told_as_any_other_end(world: World) -> None:
    grace = world.client("grace")[0]
    taken = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    with RawReceiver(answering(taken)) as receiver:
        body = {"parameters": COLD, "callback_url": receiver.url()}
        first = grace.submit("Told twice?", **body)
        grace.task(first, wait=60)
        hit = grace.submit("Told twice?", **body)
        wait_until(lambda: len(receiver.requests) >= 2, what="two callbacks")
    events = [orjson.loads(request.partition(b"\r\n\r\n")[2]) for request in receiver.requests]
    told = {event["data"]["id"]: event for event in events}
    assert [told[name]["type"] for name in (first, hit)] == ["task.succeeded"] * 2
    assert [told[name]["data"]["cached"] for name in (first, hit)] == [False, True]
    assert told[hit]["data"]["result"] == told[first]["data"]["result"]
    assert told[hit]["data"]["cost"]["micros"] == 0


def test_what_is_warmed_is_there_when_it_is_asked_and_stands_in_the_usage(
    world: World, tmp_path: Path
) -> None:
    heidi = world.client("heidi")[0]
    (tmp_path / "likely.txt").write_text("Likely one?\n\nLikely two?\n")
    said = world.command(heidi, "cache", "warm", str(tmp_path / "likely.txt"), "--budget", "0.50")
    assert "Submitted 2 tasks at low priority" in said
    wait_until(lambda: len(heidi.call("GET", "/v1/tasks?status=succeeded").body["data"]) == 2, what="warm")
    before = world.calls
    hit = heidi.call("POST", "/v1/tasks", {"prompt": "Likely one?", "cache": {}}).body
    assert (hit["status"], hit["cached"], world.calls) == ("succeeded", True, before)
    world.command(heidi, "cache", "warm", str(tmp_path / "likely.txt"))
    assert world.calls == before, "what is warm is not paid for again"
    (row,) = csv.DictReader(world.command(heidi, "usage", "--by", "client", "--csv").splitlines())
    assert (row["client"], row["calls"], row["cache_hits"]) == ("heidi", "2", "3")
    assert "heidi" in world.command(heidi, "usage", "--by", "client")


def test_connections_are_kept_and_counted(world: World) -> None:
    """Last: the workers tell what they have counted every ten seconds."""

    def counted() -> Any:
        wire = world.stack.admin.call("GET", "/v1/usage").body["connections"]
        return wire if wire["calls"] >= 50 else None

    wire = wait_until(counted, what="the workers' counts")
    assert 0 < wire["per_1000_calls"] < 1000
    assert "per 1,000 calls" in world.command(world.stack.admin, "usage")
