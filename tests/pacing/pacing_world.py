"""A gate on a real Redis, with what stands around it in a test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.dispatching.dispatch import Dispatcher
from app.pacing.domain.fairness import ClientShare
from app.pacing.ports import WorkerReport
from app.pacing.store.backlog_publisher import RedisBacklogPublisher
from app.pacing.store.pacing_store import RedisPacingStore
from app.pacing.store.permits import RedisPermits
from app.platform.domain.names import backlog_queue
from app.platform.redis_scripts import Scripts, connect
from app.settings.domain.routing import (
    ConfiguredQuota,
    QuotaLimits,
    Route,
    Topology,
    request_bucket,
    token_bucket,
)
from app.tasks.domain.attempt import Message


def envelope(message: Message) -> bytes:
    """As much of kombu's envelope as the scripts look at."""
    return json.dumps({"properties": {"correlation_id": message.task_id}, "body": "x"}).encode()


@dataclass
class HandClock:
    """A clock moved by hand."""

    at: float = 1000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


@dataclass
class GateWorld:
    """One leader, one worker's report, and whoever publishes."""

    url: str
    topology: Topology
    slots: int = 100
    clients: dict[str, ClientShare] = field(default_factory=dict)
    window: int = 50_000
    window_of_all: int = 500_000

    def __post_init__(self) -> None:
        self.clock = HandClock()
        self.scripts = Scripts(connect(self.url, timeout=60))
        self.gate = RedisPacingStore(self.scripts)
        self.permits = RedisPermits(self.scripts)
        self.publisher = RedisBacklogPublisher(
            self.scripts, envelope, self.clock, window=self.window, window_of_all=self.window_of_all
        )
        self.sequence = 0

    def lead(self, term: str = "term-1") -> GateWorld:
        """Take the lead and open a generation."""
        assert self.gate.take_lead(term, self.gate.leader()[0])
        self.gate.begin_generation("epoch", self.topology.keys)
        self.configure()
        self.gate.open_generation([], self.topology.quota_ids, [])
        self.publisher.term = term
        self.dispatcher = Dispatcher(self.gate, self.topology, lambda: self.clients)
        self.report()
        return self

    def configure(self) -> None:
        quotas: Mapping[str, ConfiguredQuota] = self.topology.quotas
        self.gate.configure(
            {q.id: QuotaLimits(request_bucket(q), token_bucket(q), q.concurrency) for q in quotas.values()}
        )

    def report(self, worker: str = "w1") -> None:
        self.permits.report(WorkerReport(worker, self.topology.keys, self.slots, 0, pool=self.slots))

    def fill(self, **levels: float) -> None:
        """Set what is in every quota's buckets now."""
        for name in self.topology.quota_ids:
            self.scripts.client.hset(f"penstock:quota:{name}", mapping={k: str(v) for k, v in levels.items()})

    def message(
        self, client: str = "alice", *, estimate: int = 10, step: int = 3, **facts: object
    ) -> Message:
        self.sequence += 1
        task_id = f"task_{client}_{self.sequence}"
        queue = backlog_queue("m", client)
        return Message(task_id, self.sequence, "m", client, queue, step, estimate, **facts)  # type: ignore[arg-type]

    def publish(self, count: int, client: str = "alice", **facts: object) -> list[Message]:
        messages = [self.message(client, **facts) for _ in range(count)]
        assert self.publisher.publish(messages) == {}
        return messages

    def length(self, name: str) -> int:
        return int(self.scripts.client.llen(name))


def one_key(*quotas: ConfiguredQuota, weight: float = 1.0) -> Topology:
    """A model `m` served by one key `k1` of account `a1`."""
    return Topology({"m": ((Route("k1", "u", "a1", "m", weight),),)}, {q.id: q for q in quotas})
