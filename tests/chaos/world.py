"""A whole stack under load, with everything that can be broken at hand."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import psycopg
import redis
import urllib3

from app.adapters.embedded_redis import free_port
from app.cli.listener import Listener
from app.simulator.client import SimulatorProcess
from app.simulator.config import SimulatorConfig
from app.simulator.latency import Latency
from app.simulator.limits import Limit
from tests.chaos.auditor import Evidence
from tests.servers import PostgresServer, RedisServer
from tests.stack import Caller, Key, Stack, configuration, key_environment, wait_until

MODEL = "deepseek-flash"
KEYS = [
    Key("k1", rpm=1200, concurrency=20),
    Key("k2", rpm=900, concurrency=15),
    Key("k3", rpm=600, concurrency=10),
]
LATENCY = 0.3


class ChaosWorld:
    """Two APIs, two dispatchers, two workers, a callback worker; a database, a Redis, an upstream, a receiver."""

    def __init__(self, folder: Path) -> None:
        self.redis = RedisServer(folder / "redis", appendonly=True)
        self.postgres = PostgresServer()
        self.upstream = SimulatorProcess(_upstream())
        self.database_url = self.postgres.create_database()
        more = '[callbacks]\nallow_networks = ["127.0.0.0/8"]\nports = ["1024-65535"]\n'
        self.stack = Stack(
            folder / "stack",
            configuration(self.upstream.base_url, KEYS, more=more),
            database_url=self.database_url,
            redis_url=self.redis.url,
            environment=key_environment(KEYS),
        )
        self.second_port = free_port()
        self.accepted: list[str] = []
        self.in_flight_at_kills = 0
        self.restarts: Counter[str] = Counter()  # of processes that ended by themselves
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self.listener: Listener | None = None

    def start(self) -> ChaosWorld:
        """Start everything; a client of its own submits and is told."""
        self.stack.penstock("db", "upgrade")
        made = orjson.loads(self.stack.penstock("clients", "add", "chaos", "--json"))
        self.listener = Listener([made["callback_secret"]]).__enter__()
        self.callers = [Caller(self.stack.url, made["api_key"]), Caller(self._second_url, made["api_key"])]
        for name in ("api-1", "api-2", "dispatcher-1", "dispatcher-2", "worker-1", "worker-2", "callbacks"):
            self.start_process(name)
        self.stack.wait_ready(workers=2)
        wait_until(lambda: _answers(self._second_url), within=40, what="the second API")
        threading.Thread(target=self._supervise, name="supervisor", daemon=True).start()
        return self

    def start_process(self, name: str) -> None:
        """Start a process, or start it again."""
        commands = {
            "api-1": ("api", "--port", str(self.stack.port)),
            "api-2": ("api", "--port", str(self.second_port)),
            "dispatcher-1": ("dispatcher",),
            "dispatcher-2": ("dispatcher",),
            "worker-1": ("worker", "--name", "worker-1"),
            "worker-2": ("worker", "--name", "worker-2"),
            "callbacks": ("callback-worker", "--name", "callbacks"),
        }
        self.stack.start(name, *commands[name])

    def kill(self, name: str) -> None:
        """kill -9. What a worker held in flight may be called again."""
        with self._lock:
            if name.startswith("worker"):
                self.in_flight_at_kills += self.in_flight()
            self.stack.kill(name)
            self.start_process(name)

    def drain(self, name: str) -> int:
        """SIGTERM, and start again; gives back the exit code."""
        with self._lock:
            code = self.stack.kill(name, signal.SIGTERM)
            self.start_process(name)
        return code

    def _supervise(self) -> None:
        """Start again what ended by itself, as any supervisor does: kombu may end Celery with its Redis."""
        while not self._closing.wait(0.5):
            with self._lock:
                for name in [n for n, p in self.stack.processes.items() if p.poll() is not None]:
                    self.restarts[name] += 1
                    self.in_flight_at_kills += self.in_flight() if name.startswith("worker") else 0
                    self.start_process(name)

    def in_flight(self) -> int:
        """Calls at the upstream now."""
        return int(self.upstream.stats()["totals"]["in_flight"])

    def submit(self, count: int, stop: threading.Event) -> None:
        """Submit singly, through either API, each until it is accepted: a repeat carries the same key."""
        url = self.listener.url if self.listener else ""
        numbers = itertools.count()

        def one(number: int) -> str | None:
            fields = {"prompt": f"Chaos {number}", "callback_url": f"{url}/told"}
            while not stop.is_set():
                for caller in self.callers:
                    try:
                        answer = caller.call("POST", "/v1/tasks", fields, idempotency_key=f"chaos-{number}")
                    except urllib3.exceptions.HTTPError:
                        continue
                    if answer.status == 202:
                        return str(answer.body["id"])
                    assert answer.status in (429, 503), answer
                stop.wait(0.2)
            return None

        with ThreadPoolExecutor(8) as pool:
            self.accepted += [i for i in pool.map(one, itertools.islice(numbers, count)) if i is not None]

    def sent(self) -> int:
        """Calls that the upstream admitted."""
        return len(self.upstream.log())

    def open_rows(self) -> int:
        """Tasks that have not ended, and callbacks that were not delivered."""
        with psycopg.connect(self.database_url.replace("+psycopg", ""), autocommit=True) as conn:
            found = conn.execute(
                "SELECT (SELECT count(*) FROM task WHERE status IN ('queued', 'running'))"
                " + (SELECT count(*) FROM callback WHERE status IN ('pending', 'delivering'))"
            ).fetchone()
        return int(found[0]) if found else -1

    def settle(self, within: float) -> None:
        """Wait until everything has come to its end."""

        def done() -> bool:
            try:
                return self.open_rows() == 0
            except psycopg.OperationalError:
                return False

        wait_until(done, within=within, what=f"an end of everything\n{self.stack.logs()}", every=0.25)

    def evidence(self) -> Evidence:
        """What there is to compare."""
        with psycopg.connect(self.database_url.replace("+psycopg", "")) as conn:
            rows = dict(conn.execute("SELECT id, status FROM task").fetchall())
            results = dict(
                conn.execute(
                    "SELECT task_id, count(*) FROM attempt WHERE outcome = 'succeeded' GROUP BY task_id"
                ).fetchall()
            )
        told: dict[str, set[str]] = defaultdict(set)
        receipts = self.listener.receipts if self.listener else []
        for receipt in receipts:
            told[receipt.event["data"]["id"]].add(receipt.id or "")
        stats = self.upstream.stats()
        allowed = {key.name: key.rpm or 0 for key in KEYS}
        return Evidence(
            accepted=self.accepted,
            rows=rows,
            results=results,
            calls=Counter(str(call["task"]) for call in self.upstream.log()),
            refused=int(sum(stats["totals"]["refused"].values())),
            most_in_a_minute={
                q["account"]: (int(q["max_received_60s"]), allowed[q["account"]])
                for q in stats["quotas"]
                if q.get("account") in allowed and q["model"] == MODEL
            },
            callbacks=told,
            unverified=sum(1 for receipt in receipts if not receipt.verified),
            in_flight_at_kills=self.in_flight_at_kills,
        )

    def cut_redis_connections(self) -> None:
        """CLIENT KILL of everybody's connections."""
        with self._redis_client() as client:
            for kind in ("normal", "pubsub"):
                client.client_kill_filter(_type=kind, skipme=True)

    def flush_redis(self) -> None:
        """FLUSHALL."""
        with self._redis_client() as client:
            client.flushall()

    def _redis_client(self) -> redis.Redis:
        """A client of a Redis that answers: after a restart it may be loading still."""
        client = redis.Redis.from_url(self.redis.url)

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.exceptions.ConnectionError:
                return False

        wait_until(answers, within=30, what="Redis")
        return client

    def close(self) -> None:
        """End everything."""
        self._closing.set()
        with self._lock:
            self.stack.stop()
        if self.listener is not None:
            self.listener.__exit__(None, None, None)
        self.upstream.stop()
        self.redis.stop()
        self.postgres.stop()

    @property
    def _second_url(self) -> str:
        return f"http://127.0.0.1:{self.second_port}"


def wait_for(seconds: float) -> None:
    """How long a fault lasts."""
    threading.Event().wait(seconds)


def recovery(world: ChaosWorld, pace: float, within: float) -> float:
    """Seconds until a second's sends reach `pace` again; `within` when they do not."""
    began = time.monotonic()
    while time.monotonic() - began < within:
        before = world.sent()
        wait_for(1.0)
        if world.sent() - before >= pace:
            return time.monotonic() - began - 1.0
    return within


def _answers(url: str) -> bool:
    try:
        return Caller(url, "").call("GET", "/healthz").status == 200
    except urllib3.exceptions.HTTPError:
        return False


def _upstream() -> SimulatorConfig:
    limits = tuple(
        Limit(account=key.name, model=MODEL, rpm=key.rpm, concurrency=key.concurrency) for key in KEYS
    )
    keys = {f"sk-{key.name}": key.name for key in KEYS}
    return SimulatorConfig(keys=keys, limits=limits, latency=Latency(mean=LATENCY))
