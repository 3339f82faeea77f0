"""Plain callers for the tests: blocking ones over urllib3, many at once over aiohttp, and a bare socket."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import urllib3

from simulator.client import SimulatorControl

KEY = "sk-simulated"
PATIENCE = 60.0  # seconds: how slow a machine may be, not what is tested


def chat_body(prompt: str = "What is a penstock?", **fields: Any) -> dict[str, Any]:
    return {"model": "deepseek-flash", "messages": [{"role": "user", "content": prompt}], **fields}


def post(
    url: str, body: Any, key: str = KEY, path: str = "/v1/chat/completions", **options: Any
) -> urllib3.BaseHTTPResponse:
    """One POST on a connection of its own, never repeated; `body` is JSON or bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    headers |= options.pop("headers", {})
    with urllib3.PoolManager(retries=False) as pool:
        return pool.request(
            "POST", url + path, body=data, headers=headers, **{"timeout": PATIENCE, **options}
        )


def get(url: str, path: str, key: str = KEY) -> urllib3.BaseHTTPResponse:
    with urllib3.PoolManager(retries=False) as pool:
        return pool.request("GET", url + path, headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE)


def exchange(url: str, body: dict[str, Any], *, headers: str = "", into: bytearray | None = None) -> bytes:
    """All bytes that a connection gives until it is closed, also left in `into`.

    Raises ConnectionResetError where it is reset. Send `Connection: close` where it would stay open.
    """
    received = bytearray() if into is None else into
    data = json.dumps(body).encode()
    with connected(url) as connection:
        connection.sendall(head(len(data), headers) + data)
        while chunk := connection.recv(65536):
            received += chunk
    return bytes(received)


def head(length: int, headers: str = "") -> bytes:
    """The head of a call whose body has `length` bytes; `headers` are whole lines."""
    lines = f"POST /chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n{headers}"
    return f"{lines}Content-Length: {length}\r\n\r\n".encode()


def post_many(url: str, bodies: list[dict[str, Any]], key: str = KEY) -> list[tuple[int, dict[str, Any]]]:
    """All at once, each on a connection of its own: (status, JSON) in order."""

    async def run() -> list[tuple[int, dict[str, Any]]]:
        connector = aiohttp.TCPConnector(limit=0)
        headers = {"Authorization": f"Bearer {key}"}
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            return await asyncio.gather(*(_post(session, url, body) for body in bodies))

    return asyncio.run(run())


async def _post(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
        return answer.status, await answer.json(content_type=None)


def connected(url: str) -> socket.socket:
    """A connection of one's own."""
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), timeout=PATIENCE)


@contextmanager
def hanging(simulator: SimulatorControl) -> Iterator[socket.socket]:
    """A call that the simulator has taken up, on a connection that is closed behind it: its client hangs up."""
    body = json.dumps(chat_body()).encode()
    with connected(simulator.url) as connection:
        connection.sendall(head(len(body)) + body)
        until(lambda: simulator.stats()["totals"]["in_flight"] == 1)
        yield connection


def until(condition: Callable[[], bool], seconds: float = 2 * PATIENCE) -> None:
    """Wait for a condition, looking again and again; fails after the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)
