"""Four keys of one account against one: the account's quota is shared, so they bring the same, as a ratio.

python -m benchmarks.bench_account [--tasks 600]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from simulator.latency import Latency
from simulator.limits import Limit
from tests.servers import RedisServer
from tests.stack import Key, Stack, configuration, key_environment

RATE = 20.0  # requests per second of the account
TOLERANCE = 0.02


def seconds_of(keys: int, tasks: int, folder: Path) -> tuple[float, int]:
    """Drain `tasks` by so many keys of one account; gives back seconds from first to last send, and refusals."""
    named = [Key(f"k{i}", "shared", rpm=RATE * 60, concurrency=60) for i in range(keys)]
    upstream_config = SimulatorConfig(
        keys={f"sk-{key.name}": "shared" for key in named},
        limits=(Limit(account="shared", model="deepseek-flash", rpm=RATE * 60, concurrency=60),),
        latency=Latency(mean=0.5),
    )
    server = RedisServer(folder / "redis")
    try:
        with (
            SimulatorProcess(upstream_config) as upstream,
            Stack(
                folder / "stack",
                configuration(upstream.base_url, named),
                database_url=f"sqlite:///{folder}/penstock.db",
                redis_url=server.url,
                environment=key_environment(named),
            ) as stack,
        ):
            stack.start_all(callbacks=False)
            batch = stack.admin.submit_batch(f"Count to {n}." for n in range(tasks))
            stack.admin.finished_batch(batch["id"], within=tasks / RATE * 2 + 60)
            starts = sorted(call["arrived_at"] for call in upstream.log())
            refused = sum(upstream.stats()["totals"]["refused"].values())
    finally:
        server.stop()
    return starts[-1] - starts[0], refused


def main() -> int:
    """Run both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=600)
    options = parser.parse_args()
    found = {}
    for keys in (1, 4):
        with tempfile.TemporaryDirectory(prefix="penstock-account-") as folder:
            found[keys] = seconds_of(keys, options.tasks, Path(folder))
            print(f"keys {keys}  seconds {found[keys][0]:.2f}  refusals met {found[keys][1]}")
    ratio = found[1][0] / found[4][0]
    print(f"four keys bring {ratio:.3f} of what one brings")
    return 0 if abs(ratio - 1) <= TOLERANCE and not found[1][1] and not found[4][1] else 1


if __name__ == "__main__":
    sys.exit(main())
