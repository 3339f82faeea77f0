"""Routes requests: the upstream's API and the control endpoints."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable

import orjson
from aiohttp import web

from simulator.admission import identify
from simulator.answers import balance, model_list
from simulator.chat import serve_chat
from simulator.control import ConnectionCount, Control, answer_control
from simulator.errors import ApiError, error_body
from simulator.fault_acts import SimulatedReply, refuse, spoil
from simulator.faults import Endpoint, Target
from simulator.wire import JSON, Answered, ClientGoneError, Wire
from simulator.world import SimulatorClock, World

Handler = Callable[[web.BaseRequest, Wire, float, str], Awaitable[None]]

_CHAT_PATHS = ("/chat/completions", "/v1/chat/completions", "/beta/chat/completions")
_MODEL_PATHS = ("/models", "/v1/models")
_BALANCE_PATHS = ("/user/balance", "/v1/user/balance")


class Handlers:
    """The aiohttp handler of every request."""

    def __init__(self, world: World, clock: SimulatorClock, connections: ConnectionCount) -> None:
        """`world` is the initial state."""
        self.control = Control(world, clock, connections)
        self._clock = clock
        self._prefix = secrets.token_hex(6)
        self._count = 0
        self._acts = self.control.routes()
        self._handlers: dict[tuple[str, str], Handler] = {
            ("GET", "/"): self._index,
            **{("POST", path): self._chat for path in _CHAT_PATHS},
            **{("GET", path): self._models for path in _MODEL_PATHS},
            **{("GET", path): self._balance for path in _BALANCE_PATHS},
            **dict.fromkeys(self._acts, self._control),
        }

    @property
    def world(self) -> World:
        """The state since the last reset."""
        return self.control.world

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; its arrival time is taken first."""
        arrived_at = self._clock.now()
        self._count += 1
        call_id = f"{self._prefix}{self._count:012x}"
        try:
            wire = Wire(request.transport, request.keep_alive, call_id.encode())
            await self._answer(request, wire, arrived_at, call_id)
        except ClientGoneError:
            return Answered(keep_alive=False)
        return wire.answered

    async def _answer(self, request: web.BaseRequest, wire: Wire, arrived_at: float, call_id: str) -> None:
        path = request.path
        handler = self._handlers.get((request.method, path))
        try:
            if handler is None:
                raise _not_found(request.method, path)
            if "Expect" in request.headers:
                wire.raw(b"HTTP/1.1 100 Continue\r\n\r\n")
            await handler(request, wire, arrived_at, call_id)
        except ApiError as error:
            body = orjson.dumps(error_body(error.message, error.type, error.code))
            wire.whole(error.status, body, JSON, error.headers)

    async def _chat(self, request: web.BaseRequest, wire: Wire, arrived_at: float, call_id: str) -> None:
        await serve_chat(self.world, self._clock, request, wire, arrived_at, call_id)

    async def _models(self, request: web.BaseRequest, wire: Wire, arrived_at: float, _: str) -> None:
        identify(self.world.config, request.headers)
        await self._page(request, wire, arrived_at, "models", model_list(list(self.world.config.models)))

    async def _balance(self, request: web.BaseRequest, wire: Wire, arrived_at: float, _: str) -> None:
        _, account = identify(self.world.config, request.headers)
        balances = self.world.balances
        body = balance(balances.total(account), balances.available(account))
        await self._page(request, wire, arrived_at, "balance", body)

    async def _page(
        self, request: web.BaseRequest, wire: Wire, arrived_at: float, endpoint: Endpoint, body: bytes
    ) -> None:
        """An endpoint other than chat, with the faults for it."""
        world = self.world
        key, account = identify(world.config, request.headers)
        target = Target(key, account, endpoint=endpoint)
        fault = world.faults.strike(target, world.clock_seconds(arrived_at))
        if fault is None or (
            fault.kind.works and not await spoil(fault, wire, SimulatedReply(body, stream=False))
        ):
            wire.whole(200, body)
        elif not fault.kind.works:
            await refuse(fault, wire, stream=False)

    async def _control(self, request: web.BaseRequest, wire: Wire, _: float, __: str) -> None:
        act = self._acts[request.method, request.path]
        status, body = await answer_control(act, request)
        wire.whole(status, body)

    async def _index(self, _: web.BaseRequest, wire: Wire, __: float, ___: str) -> None:
        paths = sorted({f"{method} {path}" for method, path in self._handlers})
        wire.whole(200, orjson.dumps({"simulated": True, "endpoints": paths}))


def _not_found(method: str, path: str) -> ApiError:
    error = ApiError(f"There is no {method} {path[:200]} here")
    error.status, error.type, error.code = 404, "invalid_request_error", "not_found"
    return error
