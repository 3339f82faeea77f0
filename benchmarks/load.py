"""A cheap HTTP client for load: many connections, one request after the other on each."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Load:
    """So many requests, and how long each took (seconds)."""

    left: int
    request: bytes
    status: bytes
    took: list[float] = field(default_factory=list)
    refused: int = 0


async def _one(address: tuple[str, int], load: Load) -> None:
    reader, writer = await asyncio.open_connection(*address)
    try:
        while load.left > 0:
            load.left -= 1
            began = time.perf_counter()
            writer.write(load.request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            load.took.append(time.perf_counter() - began)
            if load.status not in head.partition(b"\r\n")[0]:
                load.refused += 1
    finally:
        writer.close()


def request_bytes(url: str, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """A whole HTTP/1.1 request."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {urlsplit(url).netloc}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def run(url: str, request: bytes, number: int, connections: int, status: int = 202) -> tuple[float, Load]:
    """Make so many requests over so many connections; gives back seconds and what was met."""
    parts = urlsplit(url)
    address, load = (parts.hostname or "", parts.port or 80), Load(number, request, str(status).encode())

    async def all_of_them() -> None:
        await asyncio.gather(*(_one(address, load) for _ in range(connections)))

    began = time.perf_counter()
    asyncio.run(all_of_them())
    return time.perf_counter() - began, load
