"""A leader with a backlog of any size: rows made by one statement, the window filled as its feeder would have.

Each backlog has a Redis and a database of its own, so that several stand side by side and are measured in turn.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from sqlalchemy import text

from app.composition.container import Container
from app.composition.dispatcher import LeaderProcess
from app.dispatching.leadership import begin_generation
from app.pacing.ports import WorkerReport
from app.pacing.store.backlog_publisher import WINDOW, WINDOW_OF_ALL
from app.platform.database import Database
from app.platform.domain.names import backlog_queue
from app.platform.migrate import upgrade
from app.platform.redis_scripts import Scripts, connect
from app.settings import load_settings
from app.tasks.domain.attempt import Message
from app.tasks.domain.task import Hold
from tests.servers import RedisServer
from tests.stack import Key, configuration, key_environment

MODEL = "deepseek-flash"
STEP, ESTIMATE = 3, 100
_CHUNK = 50_000
_DAY = 86_400
_NUMBERS = {
    "sqlite": "WITH RECURSIVE n (i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last - 1)",
    "postgresql": "WITH n (i) AS (SELECT generate_series(:first, :last - 1))",
}
_FILL = """
    INSERT INTO task (id, client_id, model, queue, step, status, hold, estimate, created_at, available_at, expires_at,
        fed_at)
    {numbers}
    SELECT 'task_b' || i, 'client-' || (i % {clients}), '{model}', 'backlog.{model}.client-' || (i % {clients}), {step},
        'queued', CASE WHEN {held} THEN {until} ELSE 0 END, {estimate}, :now, :now + 3600, :now + {day},
        CASE WHEN i < :fed THEN CAST(:now AS double precision) END
    FROM n
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """What waits, and for how many keys."""

    waiting: int
    clients: int = 1
    keys: int = 1
    held: int = 0  # of the last digits of rows' numbers, how many wait for their time

    @property
    def fed(self) -> int:
        """How many of the rows are in Redis: those that the feeder's window takes."""
        return min(self.waiting, WINDOW * self.clients, WINDOW_OF_ALL)


def fill(database: Database, shape: Shape, now: float, fed: int) -> None:
    """Rows that wait, the first of them as fed."""
    statement = text(
        _FILL.format(
            numbers=_NUMBERS[database.dialect],
            clients=shape.clients,
            model=MODEL,
            step=STEP,
            estimate=ESTIMATE,
            held=f"i % 10 >= {10 - shape.held}",
            until=int(Hold.UNTIL),
            day=_DAY,
        )
    )
    for first in range(0, shape.waiting, _CHUNK):
        last = min(shape.waiting, first + _CHUNK)
        bounds = {"first": first, "last": last, "now": now, "fed": fed}
        database.write(lambda conn, bounds=bounds: conn.execute(statement, bounds))


class Backlog:
    """One leader at work, and what waits for it."""

    def __init__(self, folder: Path, url: str, shape: Shape, keys: Sequence[Key]) -> None:
        """Lead, with nothing waiting yet."""
        self.shape, self.keys = shape, tuple(key.name for key in keys)
        path = folder / "penstock.toml"
        path.write_text(configuration("http://127.0.0.1:9/v1", keys), encoding="utf-8")
        self.redis = RedisServer(folder / "redis", appendonly=True, maxmemory="2gb")
        environment = {
            "DATABASE_URL": url,
            "REDIS_URL": self.redis.url,
            "PENSTOCK_ADMIN_KEY": "pk_" + "x" * 43,
        }
        upgrade(url)
        self.parts = Container(load_settings(path, {**environment, **key_environment(keys)}))
        self.scripts = Scripts(connect(self.redis.url, timeout=60))
        self.leader = LeaderProcess(self.parts)
        self._lead()

    def _lead(self) -> None:
        leader, term = self.leader, uuid4().hex
        while not leader.candidate.try_lead(term):
            pass
        leader.publisher.term = term
        begin_generation(
            leader.gate,
            leader.database,
            leader.dispatcher.topology,
            leader.clock,
            generation=term,
            upstreams=leader.upstream_of_key,
            configure=leader.configure,
            pause=lambda _seconds: False,
        )

    def fill(self, fed: int) -> None:
        """Store all rows; the first `fed` of them are in Redis afterwards, as if the feeder had put them there."""
        now = self.leader.clock.now()
        fill(self.leader.database, self.shape, now, fed)
        for first in range(0, fed, 1000):
            refused = self.leader.publisher.publish(
                [self._message(n) for n in range(first, min(fed, first + 1000))], feeding=True
            )
            assert not refused, refused
        self._let_redis_rest()

    def _message(self, number: int) -> Message:
        client = f"client-{number % self.shape.clients}"
        queue = backlog_queue(MODEL, client)
        return Message(f"task_b{number}", number + 1, MODEL, client, queue, STEP, ESTIMATE)

    def _let_redis_rest(self) -> None:
        """Until what it writes of its log in the background is over."""
        until = time.monotonic() + 30
        while self.scripts.client.info("persistence")["aof_rewrite_in_progress"] and time.monotonic() < until:
            time.sleep(0.05)

    def report(self) -> None:
        """A worker says that it is there."""
        self.parts.permits.report(WorkerReport("w1", self.keys, 4000, 0))

    def cpu(self) -> float:
        """CPU seconds of this process and of Redis, which knows its own to the microsecond."""
        info = self.scripts.client.info("cpu")
        return time.process_time() + float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

    def close(self) -> None:
        """Let go of everything."""
        self.leader.database.close()
        self.scripts.client.close()
        self.redis.stop()


def close_all(backlogs: Iterable[Backlog]) -> None:
    """Let go of several."""
    for one in backlogs:
        one.close()
