"""Thousands of calls at once in one process."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from urllib.parse import urlsplit

from simulator.client import SimulatorControl, SimulatorProcess
from simulator.faults import Fault
from simulator.latency import Latency
from simulator.server import raise_file_limit
from tests.simulator.calling import chat_body, head, until
from tests.simulator.conftest import Upstream

CALLS = 3000
MEMORY_BYTES = 512 * 1024 * 1024


class Caller(asyncio.Protocol):
    """One call on one connection, as cheap as can be: thousands of them share this test's process."""

    def __init__(self, request: bytes, ended: asyncio.Future[bytes]) -> None:
        self._request = request
        self._ended = ended
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data

    def connection_lost(self, _: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_result(bytes(self._received))


def request_of(number: int) -> bytes:
    body = json.dumps(chat_body(f"call {number}")).encode()
    return head(len(body), f"Connection: close\r\nx-penstock-task: task_{number}\r\n") + body


async def call_all(simulator: SimulatorControl, count: int) -> list[bytes]:
    """So many calls, all held until the last has come, then released together: their answers in order."""
    loop, address = asyncio.get_running_loop(), urlsplit(simulator.url)
    simulator.configure(slots=0)
    ends: list[asyncio.Future[bytes]] = [loop.create_future() for _ in range(count)]
    for number, ended in enumerate(ends):
        request = request_of(number)
        await loop.create_connection(lambda r=request, e=ended: Caller(r, e), address.hostname, address.port)
    await asyncio.to_thread(until, lambda: simulator.stats()["totals"]["received"] == count)
    simulator.configure(slots=None)
    return await asyncio.gather(*ends)


def memory_bytes(pid: int) -> int:
    """The most memory that a process ever held; 0 where the system does not tell."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


def test_three_thousand_calls_are_held_at_once_and_all_answered(
    upstream: Upstream, simulator_process: SimulatorProcess
) -> None:
    raise_file_limit()
    simulator = upstream(keep_alive_seconds=60.0)
    answers = asyncio.run(call_all(simulator, CALLS))
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    for number, answer in enumerate(answers):
        assert f'You said: call {number}"'.encode() in answer
    totals = simulator.stats()["totals"]
    assert totals["max_in_flight"] == CALLS
    assert (totals["received"], totals["succeeded"], totals["in_flight"]) == (CALLS, CALLS, 0)
    assert {call["task"] for call in simulator.log()} == {f"task_{number}" for number in range(CALLS)}
    assert memory_bytes(simulator_process.pid) < MEMORY_BYTES


def test_under_many_calls_and_faults_the_stats_add_up(upstream: Upstream) -> None:
    faults = (Fault("503", rate=0.1), Fault("reset", rate=0.1), Fault("malformed", rate=0.1))
    simulator = upstream(faults=faults, latency=Latency("lognormal", mean=0.05), seed=3)
    asyncio.run(call_all(simulator, 400))
    totals, log = simulator.stats()["totals"], simulator.log()
    assert totals["received"] == totals["admitted"] == len(log) == 400
    assert set(totals["outcomes"]) == {"ok", "503", "reset", "malformed"}
    assert sum(totals["outcomes"].values()) == 400
    for outcome, count in totals["outcomes"].items():
        assert sum(call["outcome"] == outcome for call in log) == count
