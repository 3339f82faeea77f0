"""Running the simulator: one process, one event loop, thousands of calls at once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import AsyncIterator, Callable

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from simulator.config import SimulatorConfig
from simulator.control import CONTROL_BYTES, CONTROL_PREFIX, ConnectionCount
from simulator.handlers import Handlers
from simulator.world import SimulatorClock, World

_BACKLOG = 4096  # thousands of clients may connect in one instant
_WANTED_FILES = 65_536


class CountingServer(web.Server):
    """aiohttp's server, counting connections and reading request bodies up to the configured size."""

    def __init__(self, handlers: Handlers, connections: ConnectionCount) -> None:
        """Cancel calls whose clients disconnect, so that they free their place."""
        super().__init__(handlers, request_factory=self._request, handler_cancellation=True, access_log=None)
        self._handlers = handlers
        self._counted = connections

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Count it in."""
        self._counted.open()
        super().connection_made(handler, transport)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Count it out."""
        self._counted.close()
        super().connection_lost(handler, exc)

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        loop = asyncio.get_running_loop()
        control = message.path.startswith(CONTROL_PREFIX)
        size = CONTROL_BYTES if control else self._handlers.world.config.max_request_bytes
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=size)


@contextlib.asynccontextmanager
async def running_simulator(config: SimulatorConfig, host: str, port: int) -> AsyncIterator[str]:
    """Serve in the running event loop; yields the URL. Port 0: any free one."""
    clock, connections = SimulatorClock(), ConnectionCount()
    handlers = Handlers(World(config, clock.now()), clock, connections)
    runner = web.ServerRunner(CountingServer(handlers, connections), shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=_BACKLOG)
        await site.start()
        bound = runner.addresses[0][1]
        yield f"http://{f'[{host}]' if ':' in host else host}:{bound}"
    finally:
        await runner.cleanup()


def run_simulator(
    config: SimulatorConfig,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    on_ready: Callable[[str], None] | None = None,
    stop_with_stdin: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT, or until standard input closes. Raises OSError when the port is taken.

    `on_ready` gets the URL once calls are answered; by default it is printed as `listening on URL`.
    """
    raise_file_limit()
    asyncio.run(_serve(config, host, port, on_ready or _announce, stop_with_stdin))


def raise_file_limit() -> None:
    """Allow as many open connections as the system grants this process."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, _WANTED_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _serve(
    config: SimulatorConfig, host: str, port: int, on_ready: Callable[[str], None], stop_with_stdin: bool
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if stop_with_stdin:
        await loop.connect_read_pipe(lambda: _StopAtEnd(stop), sys.stdin)
    async with running_simulator(config, host, port) as url:
        # Everything that exists now lives to the end: exempt it from garbage collection.
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        on_ready(url)
        await stop.wait()


class _StopAtEnd(asyncio.Protocol):
    """Sets an event when the other end of a pipe closes."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop

    def connection_lost(self, _: Exception | None) -> None:
        """The pipe was closed or its holder died."""
        self._stop.set()


def _announce(url: str) -> None:
    print(f"listening on {url}", flush=True)
