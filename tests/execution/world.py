"""Real worker processes between a real dispatcher, a real Redis, a database and a simulated upstream."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import redis

from app.access.store import clients
from app.composition.container import Container
from app.platform.migrate import upgrade
from app.settings import load_settings
from app.submission.check_request import SubmissionRules
from app.submission.domain.request import TaskRequest
from app.submission.submit_task import SubmitTask
from app.tasks.store import tasks
from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from tests.stack import PATIENCE, Key, Stack, configuration, key_environment, wait_until

MODEL = "deepseek-flash"  # the simulator's; tasks of the model "unserved" stay in their queue, "held" is up to a test


class WorkerWorld:
    """Submits through the use case, in this process; everything else is processes."""

    def __init__(
        self,
        folder: Path,
        database_url: str,
        redis_url: str,
        *,
        keys: Sequence[Key] = (Key("key-one", rpm=600_000, concurrency=3_000),),
        upstream: SimulatorConfig | None = None,
        base_url: str | None = None,
        more: str = "",
    ) -> None:
        """`base_url` is another upstream than the simulator; `more` is further configuration."""
        self._simulator = None if base_url else SimulatorProcess(upstream)
        config = configuration(base_url or self.simulator.base_url, keys, more=more)
        self.stack = Stack(
            folder, config, database_url=database_url, redis_url=redis_url, environment=key_environment(keys)
        )
        self.parts = self._parts()
        upgrade(database_url)
        secret = "whsec_" + "A" * 32
        self.parts.database.write(lambda conn: clients.add_client(conn, "alice", secret, now=0.0))
        self._submitting = SubmitTask(
            self.parts.database,
            self.parts.publisher,
            SubmissionRules(frozenset({MODEL, "unserved", "held"}), MODEL),
            self.parts.clock,
        )
        self.redis = redis.Redis.from_url(redis_url)

    @property
    def simulator(self) -> SimulatorProcess:
        assert self._simulator is not None
        return self._simulator

    def start(self, *workers: str, concurrency: int = 20, ready: int = 0) -> Self:
        """A dispatcher and workers of these names; returns when they, or `ready` others, report slots."""
        self.stack.start("dispatcher", "dispatcher")
        for name in workers:
            self.stack.start(name, "worker", "--name", name, "--concurrency", str(concurrency))
        wait_until(
            self._ready(len(workers) or ready), within=2 * PATIENCE, what=f"workers\n{self.stack.logs()}"
        )
        return self

    def submit(self, prompt: str = "hello", **fields: Any) -> str:
        request = TaskRequest([{"role": "user", "content": prompt}], **fields)
        return self._submitting.submit("alice", request).task_id

    def task(self, task_id: str) -> Any:
        return self.parts.database.read(lambda conn: tasks.get_task(conn, None, task_id))

    def attempts(self, task_id: str) -> list[Any]:
        return list(self.parts.database.read(lambda conn: tasks.attempts_of(conn, task_id)))

    def wait_for(self, task_id: str, *statuses: str, within: float = PATIENCE) -> Any:
        """The task as it is once it has one of these states."""

        def there() -> Any:
            row = self.task(task_id)
            return row if row.status in statuses else None

        return wait_until(there, within=within, what=f"{task_id} {statuses}\n{self.stack.logs()}")

    def close(self) -> None:
        self.stack.stop()
        self._submitting.close()
        self.parts.database.close()
        self.redis.close()
        if self._simulator is not None:
            self._simulator.stop()

    def _parts(self) -> Container:
        environment = {**os.environ, **self.stack.environment}
        return Container(load_settings(Path(environment["PENSTOCK_CONFIG"]), environment))

    def _ready(self, workers: int) -> Callable[[], bool]:
        def ready() -> bool:
            reports = self.redis.hvals("penstock:workers")
            return sum(b'"slots":0' not in report for report in reports) >= workers and bool(
                self.redis.hget("penstock:gate", "run_id")
            )

        return ready
