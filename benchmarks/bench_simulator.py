"""How many calls a second the simulated upstream answers, so that no other figure is its doing.

python benchmarks/bench_simulator.py [--calls 20000]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1]))

from simulator.client import SimulatorProcess
from simulator.server import raise_file_limit

BODY = b'{"model":"deepseek-flash","messages":[{"role":"user","content":"Tell me about the sea."}]}'
REQUEST = (
    b"POST /chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-simulated\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)
# (connections, seconds an answer takes)
SHAPES = ((1, 0.0), (20, 0.0), (200, 0.0), (1000, 0.2), (3000, 1.0))


class Load:
    """A number of calls to be made, and when the last is answered."""

    def __init__(self, calls: int) -> None:
        """Inside a running event loop."""
        self.left = self.unanswered = calls
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answered(self) -> None:
        """Count an answer."""
        self.unanswered -= 1
        if self.unanswered == 0:
            self.done.set_result(None)


class Caller(asyncio.Protocol):
    """One connection, one call after the other."""

    def __init__(self, load: Load) -> None:
        """Takes its calls from the load."""
        self._load = load
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport
        self._call()

    def data_received(self, data: bytes) -> None:
        """Read on until the answer is whole, then call again."""
        self._received += data
        head, _, body = self._received.partition(b"\r\n\r\n")
        _, found, rest = head.partition(b"content-length: ")
        if found and len(body) >= int(rest.partition(b"\r\n")[0]):
            assert head.startswith(b"HTTP/1.1 200"), head
            self._received = b""
            self._load.answered()
            self._call()

    def _call(self) -> None:
        if self._load.left <= 0:
            self._transport.close()
            return
        self._load.left -= 1
        self._transport.write(REQUEST)


async def measure(url: str, connections: int, calls: int) -> float:
    """Calls a second."""
    address, load, loop = urlsplit(url), Load(calls), asyncio.get_running_loop()
    began = time.perf_counter()
    for _ in range(connections):
        await loop.create_connection(lambda: Caller(load), address.hostname, address.port)
    await load.done
    return calls / (time.perf_counter() - began)


def main() -> None:
    """Print a line a shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    calls = parser.parse_args().calls
    raise_file_limit()
    with SimulatorProcess() as simulator:
        for connections, latency in SHAPES:
            simulator.configure(latency=latency)
            simulator.reset()
            rate = asyncio.run(measure(simulator.url, connections, calls))
            totals = simulator.stats()["totals"]
            assert totals["succeeded"] == totals["received"] == calls
            print(f"{connections:5} connections, {latency:.1f} s an answer: {rate:7,.0f} calls/s")


if __name__ == "__main__":
    main()
