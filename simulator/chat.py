"""One chat call, from its first byte to its ledger entry."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable

from aiohttp import web

from simulator.admission import Call, admit
from simulator.answers import AnswerUsage, Envelope, completion, stream_events
from simulator.errors import BadRequestError, TooLargeError
from simulator.fault_acts import SimulatedReply, fault_error, keep_alive_line, refuse, spoil, spoil_answer
from simulator.faults import Fault, Target
from simulator.ledger import Ending
from simulator.prompt_cache import prefix_blocks
from simulator.wire import JSON, SSE, ClientGoneError, Wire
from simulator.world import SimulatorClock, World


async def serve_chat(
    world: World, clock: SimulatorClock, request: web.BaseRequest, wire: Wire, arrived_at: float, call_id: str
) -> None:
    """Read, admit, answer, record. Raises ApiError for calls that are not admitted.

    1. the body is read; what never arrives whole is only counted;
    2. the call is admitted at the instant it arrived, or refused;
    3. a fault strikes, or it is worked on and answered;
    4. however that ends, the ledger and the limits learn it before the client can send again.
    """
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        wire.close()
        world.ledger.reject(arrived_at, TooLargeError.reason)
        raise TooLargeError("The request body is too large") from None
    except web.RequestPayloadError as error:
        wire.close()
        world.ledger.reject(arrived_at, BadRequestError.reason)
        raise BadRequestError(f"The request body cannot be read: {error}") from None
    except BaseException:
        world.ledger.unread += 1
        raise
    call = admit(world, arrived_at, request.headers, body)
    serving = _Serving(world, call, wire, call_id, "gzip" in request.headers.get("Accept-Encoding", ""))
    try:
        await serving.run()
    except (ClientGoneError, asyncio.CancelledError):
        serving.client_gone = True
        raise
    finally:
        serving.settle(clock.now())


class _Serving:
    """An admitted call in progress and its outcome."""

    __slots__ = (
        "_accepts_gzip",
        "_call",
        "_fault",
        "_holds_slot",
        "_id",
        "_usage",
        "_wire",
        "_world",
        "client_gone",
        "outcome",
        "status",
    )

    def __init__(self, world: World, call: Call, wire: Wire, call_id: str, accepts_gzip: bool) -> None:
        self._world = world
        self._call = call
        self._wire = wire
        self._id = call_id
        self._accepts_gzip = accepts_gzip
        self._fault = self._choose_fault()
        self._usage: AnswerUsage | None = None
        self._holds_slot = False
        self.client_gone = False
        self.outcome = self._fault.name if self._fault else ""
        self.status = 0

    async def run(self) -> None:
        """Carry out the fault, or answer."""
        fault = self._fault
        if fault is not None and not fault.kind.works:
            self.status = fault.kind.status
            await refuse(fault, self._wire, self._call.request.stream)
            return
        if await self._get_slot():
            await self._work(fault)

    def settle(self, now: float) -> None:
        """Release limits and slot, and record the end of the call."""
        world, call = self._world, self._call
        world.gate.release(call.caller)
        if self._holds_slot:
            world.slots.give_back()
        good = not self.client_gone and (self.outcome == "ok" or self._is_good_fault())
        outcome = self.outcome or ("client_gone" if self.client_gone else "crashed")
        cost = self._cost()
        world.balances.spend(call.caller.account, cost or 0)
        world.ledger.end(call.caller, Ending(outcome, good, self.client_gone, self._usage, cost))
        world.log.close(call.sequence, self.status, outcome, now - call.arrived_at)

    def _choose_fault(self) -> Fault | None:
        book = self._world.faults
        if not book.rules:
            return None
        caller, request = self._call.caller, self._call.request
        target = Target(caller.key, caller.account, caller.model, request.stream, request.prompt)
        return book.strike(target, self._world.clock_seconds(self._call.arrived_at))

    def _is_good_fault(self) -> bool:
        return self._fault is not None and self._fault.kind.good

    def _cost(self) -> int | None:
        """The cost in pico-dollars at the time of arrival; None without a price."""
        config, usage = self._world.config, self._usage
        if usage is None:
            return 0
        price = config.prices.get(self._call.caller.model)
        if price is None:
            return None
        rates = price.at(config.pricing, self._call.arrived_at, config.holidays)
        return rates.cost_pico(usage.hit_tokens, usage.miss_tokens, usage.completion_tokens)

    async def _get_slot(self) -> bool:
        """Take an inference slot, sending keep-alive lines while waiting; False on timeout."""
        slots = self._world.slots
        if slots.take():
            self._holds_slot = True
            return True
        place = slots.queue()
        try:
            self._holds_slot = await self._stand_in_line(place)
        finally:
            if not self._holds_slot:
                slots.leave(place)
        if not self._holds_slot:
            self.outcome = "slot_timeout"
            self._wire.close()
        return self._holds_slot

    async def _stand_in_line(self, place: asyncio.Future[None]) -> bool:
        config, stream = self._world.config, self._call.request.stream
        loop = asyncio.get_running_loop()
        end = loop.time() + config.slot_wait_seconds
        while (left := end - loop.time()) > 0:
            await asyncio.wait([place], timeout=min(left, config.keep_alive_seconds))
            if place.done():
                return True
            self.status = 200
            self._wire.open(SSE if stream else JSON)
            self._wire.chunk(keep_alive_line(stream))
        return False

    async def _work(self, fault: Fault | None) -> None:
        """Wait for the latency, then send the answer, intact or faulty."""
        world, call = self._world, self._call
        prefix = prefix_blocks(call.caller.account, call.caller.model, call.request.prompt)
        hits = world.cache.hit_tokens(prefix)
        factor = fault.factor if fault is not None and fault.name == "slow" else 1.0
        seconds = world.config.latency.sample(world.latencies) * factor
        if seconds > 0:
            await asyncio.sleep(seconds)
        answer = spoil_answer(fault, call.answer) if fault is not None else call.answer
        usage = AnswerUsage(
            call.request.prompt_tokens, hits, answer.completion_tokens, answer.reasoning_tokens
        )
        self._usage = usage
        self.status = 200
        world.cache.remember(prefix)
        envelope = Envelope(self._id, int(call.arrived_at), call.caller.model, self._world.config.marked)
        if call.request.stream:
            events = list(stream_events(envelope, answer, usage, call.request.include_usage))
            await self._send_stream(fault, events, world.config.tokens_per_second / (factor or 1.0))
        else:
            await self._send(fault, completion(envelope, answer, usage))
        self.outcome = self.outcome or "ok"

    async def _send(self, fault: Fault | None, body: bytes) -> None:
        if fault is not None and await spoil(fault, self._wire, SimulatedReply(body, stream=False)):
            return
        headers = self._call.headers
        if self._accepts_gzip and self._world.config.gzip_answers and not self._wire.opened:
            body = zlib.compress(body, level=1, wbits=31)
            headers += b"content-encoding: gzip\r\n"
        self._wire.whole(200, body, JSON, headers)

    async def _send_stream(self, fault: Fault | None, events: list[tuple[int, bytes]], rate: float) -> None:
        wire = self._wire
        if fault is None:
            await _stream(wire, events, rate, self._call.headers)
            wire.end()
            return
        if fault.kind.stream_only:
            await _stream(wire, events[: max(1, len(events) // 2)], rate)
            self._break_off(fault)
            return
        body = b"".join(data for _, data in events)
        if not await spoil(fault, wire, SimulatedReply(body, stream=True)):
            await _stream(wire, events, rate)
            wire.end()

    def _break_off(self, fault: Fault) -> None:
        """End a half-sent stream, with an error event or silently."""
        if fault.name == "stream-error":
            self._wire.chunk(b"data: " + fault_error(fault) + b"\n\n")
            self._wire.end()
        self._wire.close()


async def _stream(
    wire: Wire, events: Iterable[tuple[int, bytes]], tokens_per_second: float, headers: bytes = b""
) -> None:
    """Send events at `pace` tokens per second (0: all at once); late pieces catch up."""
    wire.open(SSE, headers)
    if tokens_per_second <= 0:
        wire.chunk(b"".join(data for _, data in events))
        return
    loop = asyncio.get_running_loop()
    due = loop.time()
    for tokens, data in events:
        due += tokens / tokens_per_second
        if (left := due - loop.time()) > 0:
            await asyncio.sleep(left)
        wire.chunk(data)
