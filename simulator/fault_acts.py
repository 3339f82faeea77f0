"""Carries out faults on the wire, one function per kind.

Refusals replace the answer. Spoilers send the finished answer wrongly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import orjson

from simulator.answers import Answer
from simulator.errors import FAULT_TEXTS, error_body
from simulator.faults import Fault
from simulator.tokens import count_tokens
from simulator.wire import HTML, JSON, SSE, Wire

_BLOCK_BYTES = 64 * 1024
_RUBBISH = b'data: {"broken'
_PAGE = b"<html><head><title>%d %b</title></head><body><h1>%d %b</h1><hr>simulated</body></html>\n"


@dataclass(frozen=True, slots=True)
class SimulatedReply:
    """A good body as it would have been sent."""

    body: bytes
    stream: bool
    headers: bytes = b""

    @property
    def content_type(self) -> bytes:
        """JSON, or server-sent events."""
        return SSE if self.stream else JSON


def keep_alive_line(stream: bool) -> bytes:
    """DeepSeek's keep-alive while a call waits."""
    return b": keep-alive\n\n" if stream else b"\n"


@dataclass(frozen=True, slots=True)
class Scene:
    """A fault to carry out: its wire and reply (empty for faults that do no work)."""

    fault: Fault
    wire: Wire
    reply: SimulatedReply


async def refuse(fault: Fault, wire: Wire, stream: bool) -> None:
    """Answer with a fault that does no work, after its `seconds` for those with a status."""
    act = _REFUSALS.get(fault.name)
    if act is not None:
        await act(Scene(fault, wire, SimulatedReply(b"", stream)))
        return
    if fault.seconds:
        await asyncio.sleep(fault.seconds)
    _error_status(fault, wire)


async def spoil(fault: Fault, wire: Wire, reply: SimulatedReply) -> bool:
    """Send a finished answer wrongly or late. False if this fault does not affect sending."""
    act = _SPOILERS.get(fault.name)
    if act is None:
        return False
    await act(Scene(fault, wire, reply))
    return True


def spoil_answer(fault: Fault, answer: Answer) -> Answer:
    """The answer after faults that affect the model, not the wire."""
    if fault.name == "content-filter":
        return replace(
            answer, content="", finish_reason="content_filter", completion_tokens=answer.reasoning_tokens
        )
    if fault.name == "no-capacity":
        half = answer.content[: len(answer.content) // 2]
        tokens = answer.reasoning_tokens + count_tokens(half)
        return replace(
            answer, content=half, finish_reason="insufficient_system_resource", completion_tokens=tokens
        )
    return answer


def fault_error(fault: Fault) -> bytes:
    """The error body of a fault."""
    message, type_, code = FAULT_TEXTS[fault.name]
    return orjson.dumps(error_body(fault.message or message, type_, code))


def _error_status(fault: Fault, wire: Wire) -> None:
    status = fault.kind.status
    if status in (502, 504):
        reason = b"Bad Gateway" if status == 502 else b"Gateway Time-out"
        wire.whole(status, _PAGE % (status, reason, status, reason), HTML)
        return
    seconds = fault.retry_after
    if seconds is None and fault.name == "429-retry-after":
        seconds = 1.0
    headers = b"" if seconds is None else b"retry-after: %b\r\n" % f"{seconds:g}".encode()
    wire.whole(status, fault_error(fault), headers=headers)


async def _timeout(scene: Scene) -> None:
    if scene.fault.seconds is None:
        await asyncio.Event().wait()  # until the client hangs up
    await asyncio.sleep(scene.fault.seconds or 0)
    scene.wire.close()


async def _reset(scene: Scene) -> None:
    scene.wire.reset()


async def _blank(scene: Scene) -> None:
    scene.wire.open(scene.reply.content_type)
    await _keep_alive(scene)
    scene.wire.end()
    scene.wire.close()


async def _error_200(scene: Scene) -> None:
    scene.wire.whole(200, fault_error(scene.fault))


async def _html(scene: Scene) -> None:
    scene.wire.whole(200, _PAGE % (200, b"Welcome", 200, b"Please sign in"), HTML)


async def _keep_alive(scene: Scene) -> None:
    """Send lines every `interval` for the fault's duration, the first immediately."""
    loop = asyncio.get_running_loop()
    end = loop.time() + scene.fault.held_seconds
    while True:
        scene.wire.chunk(keep_alive_line(scene.reply.stream))
        left = end - loop.time()
        if left <= 0:
            return
        await asyncio.sleep(min(left, max(scene.fault.interval, 0.001)))


async def _reset_mid_body(scene: Scene) -> None:
    _send_half(scene)
    await asyncio.sleep(0.01)  # or the reset could overtake the bytes
    scene.wire.reset()


async def _truncated(scene: Scene) -> None:
    scene.wire.close()
    _send_half(scene)


def _send_half(scene: Scene) -> None:
    half = scene.reply.body[: len(scene.reply.body) // 2]
    if scene.wire.opened:
        scene.wire.chunk(half)
    else:
        scene.wire.promise(len(scene.reply.body), scene.reply.content_type)
        scene.wire.raw(half)


async def _malformed(scene: Scene) -> None:
    scene.wire.whole(
        200, scene.reply.body[: len(scene.reply.body) // 2] + _RUBBISH + b"\n\n", scene.reply.content_type
    )


async def _no_choices(scene: Scene) -> None:
    body = orjson.dumps({"object": "chat.completion", "choices": [], "simulated": True})
    scene.wire.whole(
        200, b"data: %b\n\ndata: [DONE]\n\n" % body if scene.reply.stream else body, scene.reply.content_type
    )


async def _slow_keep_alive(scene: Scene) -> None:
    scene.wire.open(scene.reply.content_type)
    await _keep_alive(scene)
    scene.wire.whole(200, scene.reply.body)


async def _drip(scene: Scene) -> None:
    scene.wire.open(scene.reply.content_type)
    for place in range(len(scene.reply.body)):
        scene.wire.chunk(scene.reply.body[place : place + 1])
        await asyncio.sleep(scene.fault.interval)
    scene.wire.end()


async def _huge(scene: Scene) -> None:
    scene.wire.open(scene.reply.content_type)
    head, tail = (b'data: {"padding":"', b'"}\n\n' + scene.reply.body)
    if not scene.reply.stream:
        head, tail = scene.reply.body[:-1] + b',"padding":"', b'"}'
    scene.wire.chunk(head)
    block = b"x" * _BLOCK_BYTES
    for _ in range(-(-scene.fault.size // _BLOCK_BYTES)):
        scene.wire.chunk(block)
        await scene.wire.drained()
    scene.wire.chunk(tail)
    scene.wire.end()


_REFUSALS: dict[str, Callable[[Scene], Awaitable[None]]] = {
    "timeout": _timeout,
    "reset": _reset,
    "blank": _blank,
    "error-200": _error_200,
    "wrong-content-type": _html,
}

_SPOILERS: dict[str, Callable[[Scene], Awaitable[None]]] = {
    "reset-mid-body": _reset_mid_body,
    "truncated": _truncated,
    "malformed": _malformed,
    "no-choices": _no_choices,
    "slow-keep-alive": _slow_keep_alive,
    "drip": _drip,
    "huge": _huge,
}
