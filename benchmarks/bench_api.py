"""API: submissions per second and their p99 with 500 idle long polls open, against a Flask route that only inserts.

Both on one gunicorn process with the same settings, the same PostgreSQL, 16 connections; in turn, round by round. Ours
authenticates, validates, admits, stores task and content, publishes to Redis and tells Flower.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import orjson
import urllib3

from app.platform.embedded_redis import free_port
from benchmarks.frame import FOLDER, in_turn, options, percentile, ratios, recorded, spread
from benchmarks.ground import ground
from benchmarks.load import request_bytes, run
from tests.stack import Caller, Key, Stack, configuration, key_environment, wait_until

KEYS = [Key("main", rpm=600_000, concurrency=100, burst=1000)]
CONNECTIONS = 16
HELD_SECONDS = 25  # that a long poll stays open: longer than its round is timed
BODY = orjson.dumps({"prompt": "Say hello to the world. " * 12})


@contextmanager
def plain(database: str) -> Iterator[str]:
    """The route that only inserts, in a process of its own."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.plain_route", str(port), database],
        cwd=FOLDER.parent,
        env=os.environ,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return urllib3.request("GET", url, retries=False, timeout=2).status == 404
        except urllib3.exceptions.HTTPError:
            return False

    try:
        wait_until(answers, within=30, what="the plain route")
        yield url
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def long_polls(stack: Stack, number: int) -> Iterator[None]:
    """So many open long polls for a task that does not end; afterwards they are waited for, as others follow."""
    caller = Caller(stack.url, stack.admin_key)
    later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 86_000))
    task = caller.submit("later", run_at=later)
    parts, held = urlsplit(stack.url), []
    asked = request_bytes(
        stack.url,
        "GET",
        f"/v1/tasks/{task}?wait={HELD_SECONDS}",
        {"Authorization": f"Bearer {stack.admin_key}"},
    )
    for _ in range(number):
        one = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=60)
        one.sendall(asked)
        held.append(one)
    time.sleep(2)
    try:
        yield
        ready, _, _ = select.select(held, [], [], 0)
        assert not ready, f"{len(ready)} long polls were answered while others were timed"
        for one in held:
            one.recv(1)
    finally:
        for one in held:
            one.close()


def main() -> int:
    """Run both in turn."""
    told = options(__doc__, submissions=(2000, 400), polls=(500, 100), rounds=(3, 2))
    with (
        recorded("api", "API", quick=told.quick) as record,
        ground("api") as base,
        plain(base.database()) as plain_url,
        Stack(
            base.scratch("stack"),
            configuration("http://127.0.0.1:9", KEYS),
            database_url=base.database(),
            redis_url=base.redis.url,
            environment=key_environment(KEYS),
        ) as stack,
    ):
        stack.penstock("db", "upgrade")
        stack.start("api", "api", "--port", str(stack.port))
        stack.start("dispatcher", "dispatcher")
        stack.wait_ready(workers=0)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {stack.admin_key}"}

        def submit(url: str, number: int) -> dict[str, float]:
            asked = request_bytes(url, "POST", "/v1/tasks", headers, BODY)
            seconds, load = run(url, asked, number, CONNECTIONS)
            assert not load.refused, f"{load.refused} of {number} refused"
            return {
                "rate": number / seconds,
                "p50": percentile(load.took, 0.5) * 1000,
                "p99": percentile(load.took, 0.99) * 1000,
            }

        def ours() -> dict[str, float]:
            with long_polls(stack, told.polls):
                return submit(stack.url, told.submissions)

        submit(stack.url, 100)
        submit(plain_url, 100)
        found = in_turn(
            told.rounds,
            {
                "ours": ours,
                "ours, no long polls": lambda: submit(stack.url, told.submissions),
                "only an insert": lambda: submit(plain_url, told.submissions),
            },
        )
        rates = {name: [one["rate"] for one in many] for name, many in found.items()}
        ratio = ratios(rates["ours"], rates["only an insert"])
        good = sorted(ratio)[len(ratio) // 2] >= 0.7
        record.aim(
            f"submissions per second with {told.polls} idle long polls",
            "the same Flask route that only inserts a row",
            "0.7",
            spread(ratio),
            good,
        )
        record.table(
            f"{told.submissions:,} submissions over {CONNECTIONS} connections, one process",
            ["", "submissions/s", "p50 ms", "p99 ms"],
            [
                [
                    name,
                    spread(rates[name], ".0f"),
                    *(spread([one[part] for one in many], ".1f") for part in ("p50", "p99")),
                ]
                for name, many in found.items()
            ],
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
