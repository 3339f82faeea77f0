"""Calls of an upstream, made by hand."""

from collections.abc import Callable
from typing import Any

from pydantic import SecretStr

from app.platform.ports import SystemClock
from app.settings import Settings, UpstreamHeaders, UpstreamSettings
from app.upstreams.call_upstream import Upstreams
from app.upstreams.domain.reply import Reply, TransportError
from tests.attempts import a_claimed
from tests.upstreams.wire import Peer, WireServer

SECRET = "sk-0123456789abcdef"


class MovableClock(SystemClock):
    """The real clock, moved ahead."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


def upstreams(
    url: str, clock: Any = None, headers: UpstreamHeaders | None = None, **limits: Any
) -> Upstreams:
    upstream = UpstreamSettings(name="up", base_url=f"{url}/v1", **limits)
    secrets = {"k1": SecretStr(SECRET)}
    settings = Settings(upstreams=(upstream,))
    headers = {"up": headers} if headers is not None else None
    return Upstreams(
        settings,
        secrets,
        concurrency=8,
        clock=clock or SystemClock(),
        headers=headers,
    )


def may() -> bool:
    return True


def call(made: Upstreams, may_send: Callable[[], bool] = may, **claimed: Any) -> Reply | TransportError:
    return made.call(a_claimed(**claimed), may_send)


def faulty(serve: Callable[[Peer], None], **limits: Any) -> TransportError:
    """The fault that a call to such a server comes to."""
    with WireServer(serve) as server:
        back = call(upstreams(server.url, **limits))
    assert isinstance(back, TransportError), back
    return back


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def broken_off(head: bytes, *, reset: bool) -> Callable[[Peer], None]:
    def serve(peer: Peer) -> None:
        peer.read_request()
        peer.send(head)
        if reset:
            peer.reset()

    return serve
