"""A whole stack under load, with everything that can be broken at hand."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import orjson
import psutil
import psycopg
import redis
import urllib3

from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from simulator.latency import Latency
from simulator.limits import Limit
from tests.chaos import fake_time
from tests.chaos.auditor import Evidence
from tests.chaos.load import Load
from tests.chaos.receiver import Certificates, Receiver
from tests.chaos.recovery import back_at
from tests.chaos.watch import UpstreamWatch
from tests.ports import kept_port
from tests.servers import PostgresServer, RedisServer
from tests.stack import Caller, Key, Stack, configuration, key_environment, wait_until

MODEL = "deepseek-flash"
LOOKED_AT = 90.0  # seconds after a fault within which the pace should be back
# What an upstream may answer that rightly fails a task at once.
FAILING = frozenset({"400", "422", "content-filter", "huge"})


@dataclass(frozen=True, slots=True)
class Shape:
    """How large the load is, and what its world is made of."""

    keys: Sequence[Key]
    latency: float  # of the upstream, seconds
    ahead: int  # accepted tasks that wait
    tls: bool = False  # the receiver's
    stepped: bool = False  # clocks can be stepped

    @property
    def pace(self) -> float:
        """Sends per second that all quotas allow together."""
        return sum(key.rpm or 0 for key in self.keys) / 60


SHORT = Shape(
    (
        Key("k1", rpm=1200, concurrency=20),
        Key("k2", rpm=900, concurrency=15),
        Key("k3", rpm=600, concurrency=10),
    ),
    latency=0.3,
    ahead=100_000,
)


class ChaosWorld:
    """Two APIs, two dispatchers, two workers, a callback worker; a database, a Redis, an upstream, a receiver."""

    def __init__(self, folder: Path, shape: Shape = SHORT) -> None:
        self.folder = folder
        self.shape = shape
        self.clock = fake_time.Clock(folder) if shape.stepped else None
        with fake_time.preloaded(self.clock):
            self.redis = RedisServer(folder / "redis", appendonly=True)
        self.postgres = PostgresServer()
        self.upstream = SimulatorProcess(_upstream(shape))
        self.watch = UpstreamWatch(self.upstream)
        self.database_url = self.postgres.create_database()
        self.certificates = Certificates.make(folder) if shape.tls else None
        self.stack = Stack(
            folder / "stack",
            self._configuration(),
            database_url=self.database_url,
            redis_url=self.redis.url,
            environment={**key_environment(shape.keys), **(self.clock.environment if self.clock else {})},
        )
        self.second_port = kept_port()
        self.in_flight_at_kills = 0
        self.restarts: Counter[str] = Counter()  # of processes that ended by themselves
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self.receiver: Receiver | None = None
        self.load: Load | None = None

    def _configuration(self) -> str:
        more = ["[callbacks]", 'allow_networks = ["127.0.0.0/8"]', 'ports = ["1024-65535"]']
        if self.certificates is not None:
            more.append(f'ca_file = "{self.certificates.trusted_file}"')
            more += ["[retry.default]", "attempts = 20", "base = 0.5", "cap = 4.0"]
        text = configuration(self.upstream.base_url, self.shape.keys, more="\n".join(more) + "\n")
        return text.replace('name = "sim"\n', 'name = "sim"\ntimeout = 6.0\n', 1)

    def start(self) -> ChaosWorld:
        """Start everything; a client of its own submits and is told."""
        self.stack.penstock("db", "upgrade")
        made = orjson.loads(self.stack.penstock("clients", "add", "chaos", "--json"))
        self.receiver = Receiver(made["callback_secret"], self.certificates)
        self.callers = [Caller(self.stack.url, made["api_key"]), Caller(self._second_url, made["api_key"])]
        for name in ("api-1", "api-2", "dispatcher-1", "dispatcher-2", "worker-1", "worker-2", "callbacks"):
            self.start_process(name)
        self.stack.wait_ready(workers=2)
        wait_until(lambda: _answers(self._second_url), what="the second API")
        threading.Thread(target=self._supervise, name="supervisor", daemon=True).start()
        return self

    def submit(self, count: int) -> Load:
        """Begin to submit."""
        assert self.receiver is not None
        told = self.receiver.url
        self.load = Load(self.callers, told, count, self.shape.ahead, lambda: self.watch.tasks)
        return self.load

    # -- processes

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
            pid = self.stack.processes[name].pid
            self.stack.kill(name)
            self.count_in_flight([pid])
            self.start_process(name)

    def drain(self, name: str) -> int:
        """SIGTERM, and start again; gives back the exit code."""
        with self._lock:
            code = self.stack.kill(name, signal.SIGTERM)
            self.start_process(name)
        return code

    def count_in_flight(self, dead: Sequence[int]) -> None:
        """These processes have just died: what the workers among them had claimed and not recorded may be called again.

        The rows tell: what the upstream has answered may not have been read yet, and what was sent may not have
        reached it. They stay as they are until the leader takes their worker for lost, seconds later.
        """
        query = (
            "SELECT count(*) FROM task JOIN worker ON worker.id = task.worker"
            " WHERE task.status = 'running' AND worker.pid = ANY(%s)"
        )
        found: list[int] = []

        def asked() -> bool:
            with self.connect() as conn:
                row = conn.execute(query, (list(dead),)).fetchone()
            found.append(int(row[0]) if row else 0)
            return True

        wait_until(_quietly(asked), what="the rows of a dead worker")
        self.in_flight_at_kills += found[-1]

    def _totals(self) -> Mapping[str, int]:
        totals: Mapping[str, int] = self.upstream.stats()["totals"]
        return totals

    def _supervise(self) -> None:
        """Start again what ended by itself, as any supervisor does."""
        while not self._closing.wait(0.5):
            with self._lock:
                for name in [n for n, p in self.stack.processes.items() if p.poll() is not None]:
                    self.restarts[name] += 1
                    self.count_in_flight([self.stack.processes[name].pid])
                    self.start_process(name)

    def in_flight(self) -> int:
        """Calls at the upstream now."""
        return self._totals()["in_flight"]

    # -- the servers beneath

    def connect(self) -> psycopg.Connection:
        """A connection to the database, every statement its own transaction."""
        return psycopg.connect(self.database_url.replace("+psycopg", ""), autocommit=True)

    def freeze_postgres(self) -> Callable[[], None]:
        """SIGSTOP of every process of it; gives back what thaws it."""
        server = psutil.Process(self.postgres.pid)
        family = [server, *server.children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.suspend()

        def thaw() -> None:
            for process in reversed(family):
                with suppress(psutil.NoSuchProcess):
                    process.resume()

        return thaw

    def restart_redis(self) -> None:
        """Up again on the same port, with whatever its file holds."""
        with fake_time.preloaded(self.clock):
            self.redis.restart()

    def redis_client(self) -> redis.Redis:
        """A client of a Redis that answers: after a restart it may be loading still."""
        client = redis.Redis.from_url(self.redis.url)

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.exceptions.ConnectionError:
                return False

        wait_until(answers, what="Redis")
        return client

    # -- what has become of it all

    def open_tasks(self) -> int:
        """Tasks that have not ended."""
        return self._count("SELECT count(*) FROM task WHERE status IN ('queued', 'running')")

    def open_callbacks(self) -> int:
        """Callbacks that were not delivered, dead letters among them."""
        return self._count("SELECT count(*) FROM callback WHERE status <> 'delivered'")

    def _count(self, query: str) -> int:
        with self.connect() as conn:
            found = conn.execute(query.encode()).fetchone()
        return int(found[0]) if found else -1

    def move_callbacks(self, seconds: float) -> None:
        """Let time pass for the callbacks that wait."""
        with self.connect() as conn:
            conn.execute(
                "UPDATE callback SET next_at = next_at - %s, ring_at = ring_at - %s WHERE status = 'pending'",
                (seconds, seconds),
            )

    def settle(self, within: float) -> None:
        """Wait until everything has come to its end; callbacks that wait for hours get their hours."""

        def told() -> bool:
            if self.open_callbacks() == 0:
                return True
            if self.shape.tls:  # the long form, whose receiver has had its moods
                self.move_callbacks(3600.0)
                self.callers[0].call("POST", "/v1/callbacks/replay", {"since": "2020-01-01T00:00:00Z"})
            return False

        words = f"an end of everything\n{self.stack.logs()}"
        wait_until(_quietly(lambda: self.open_tasks() == 0), within=within, what=words, every=0.25)
        wait_until(_quietly(told), within=within, what=words, every=1.0 if self.shape.tls else 0.25)

    def back_after(self, ended_at: float) -> float | None:
        """Seconds from a fault's end until sends had 90 % of their pace again; None: not seen."""
        while (now := time.time()) < ended_at + LOOKED_AT:
            found = back_at(self.watch.arrivals(), ended_at, now, self.shape.pace)
            if found is not None:
                return found - ended_at
            pause(0.25)
        return None

    def evidence(self) -> Evidence:
        """What there is to compare."""
        assert self.receiver is not None
        assert self.load is not None
        with self.connect() as conn:
            rows = dict(conn.execute("SELECT id, status FROM task").fetchall())
            results = dict(
                conn.execute(
                    "SELECT task_id, count(*) FROM attempt WHERE outcome = 'succeeded' GROUP BY task_id"
                ).fetchall()
            )
            answered = dict(
                conn.execute(
                    "SELECT task_id, count(*) FROM attempt WHERE outcome NOT IN ('lost', 'returned')"
                    " GROUP BY task_id"
                ).fetchall()
            )
        stats = self.upstream.stats()
        allowed = {key.name: key.rpm or 0 for key in self.shape.keys}
        accepted = set(self.load.accepted)
        return Evidence(
            accepted=self.load.accepted,
            rows=rows,
            results=results,
            answered=answered,
            calls={task: calls for task, calls in self.watch.calls().items() if task in accepted},
            rightly_failing=FAILING,
            refused=int(sum(stats["totals"]["refused"].values())),
            most_in_a_minute={
                q["account"]: (int(q["max_received_60s"]), allowed[q["account"]])
                for q in stats["quotas"]
                if q.get("account") in allowed and q["model"] == MODEL
            },
            callbacks=self.receiver.told,
            unverified=self.receiver.unverified,
            in_flight_at_kills=self.in_flight_at_kills,
        )

    def close(self) -> None:
        """End everything."""
        self._closing.set()
        if self.load is not None:
            self.load.finish(0)
        self.watch.close()
        with self._lock:
            self.stack.stop()
        if self.receiver is not None:
            self.receiver.down()
        self.upstream.stop()
        self.redis.stop()
        self.postgres.stop()

    @property
    def _second_url(self) -> str:
        return f"http://127.0.0.1:{self.second_port}"


def pause(seconds: float) -> None:
    """How long a fault lasts."""
    threading.Event().wait(seconds)


def _quietly(condition: Callable[[], bool]) -> Callable[[], bool]:
    """False while the database does not answer."""

    def asked() -> bool:
        try:
            return condition()
        except (psycopg.OperationalError, urllib3.exceptions.HTTPError):
            return False

    return asked


def _answers(url: str) -> bool:
    try:
        return Caller(url, "").call("GET", "/healthz").status == 200
    except urllib3.exceptions.HTTPError:
        return False


def _upstream(shape: Shape) -> SimulatorConfig:
    limits = tuple(
        Limit(
            account=key.name,
            model=MODEL,
            rpm=key.rpm,
            concurrency=key.concurrency,
            burst_seconds=max(2.0, 120 / (key.rpm or 60)),  # two calls at least, for jitter
        )
        for key in shape.keys
    )
    keys = {f"sk-{key.name}": key.name for key in shape.keys}
    return SimulatorConfig(keys=keys, limits=limits, latency=Latency(mean=shape.latency))
