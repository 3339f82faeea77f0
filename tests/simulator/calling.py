"""Plain callers for the tests: blocking ones over urllib3, many at once over aiohttp, and a bare socket."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import urllib3

KEY = "sk-simulated"


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
        return pool.request("POST", url + path, body=data, headers=headers, **{"timeout": 10, **options})


def get(url: str, path: str, key: str = KEY) -> urllib3.BaseHTTPResponse:
    with urllib3.PoolManager(retries=False) as pool:
        return pool.request("GET", url + path, headers={"Authorization": f"Bearer {key}"}, timeout=10)


def exchange(url: str, body: dict[str, Any], *, headers: str = "", into: bytearray | None = None) -> bytes:
    """All bytes that a connection gives until it is closed, also left in `into`.

    Raises ConnectionResetError where it is reset. Send `Connection: close` where it would stay open.
    """
    address, received = urlsplit(url), bytearray() if into is None else into
    data = json.dumps(body).encode()
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
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


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for a condition, looking again and again; fails after the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
