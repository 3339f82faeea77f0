"""A stack behind the dashboard: two accounts, a simulated upstream with limits and faults, an own Redis."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from simulator.faults import Fault
from simulator.latency import Latency
from simulator.limits import Limit
from tests.servers import RedisServer
from tests.stack import Key, Stack, key_environment, several_models

MODELS = {
    "deepseek-flash": [
        Key("acme-main", "acme", rpm=6000, concurrency=80, tpm=3_000_000),
        Key("second", rpm=3000, concurrency=40),
    ],
    "deepseek-reader": [Key("reader", rpm=60, concurrency=5)],
    "failing": [Key("shaky", rpm=1200, concurrency=20)],
}
# Nothing looks for alerts: what fires is what a test puts there.
RETRY = "[retry.default]\nattempts = 1\n[alerts]\nevery = 86400\n"


class Service:
    """Everything that runs."""

    def __init__(self, folder: Path, *, latency: float = 0.3, flower_url: str = "") -> None:
        keys = [key for keys in MODELS.values() for key in keys]
        self.redis = RedisServer(folder / "redis")
        self.upstream = SimulatorProcess(
            SimulatorConfig(
                keys={f"sk-{key.name}": key.account or key.name for key in keys},
                limits=tuple(
                    Limit(account=key.account or key.name, model="*", rpm=key.rpm) for key in keys if key.rpm
                ),
                latency=Latency(mean=latency),
                faults=(Fault("500", account="shaky"),),
            )
        )
        self.stack = Stack(
            folder / "stack",
            several_models(self.upstream.base_url, MODELS, more=RETRY).replace(
                'name = "sim"', 'name = "sim"\nprices = "deepseek"', 1
            ),
            database_url=f"sqlite:///{folder}/penstock.db",
            redis_url=self.redis.url,
            environment={**key_environment(keys), "PENSTOCK_FLOWER_URL": flower_url},
        )

    def __enter__(self) -> Self:
        self.stack.start_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stack.stop()
        self.upstream.stop()
        self.redis.stop()
