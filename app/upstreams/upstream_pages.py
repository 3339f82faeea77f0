"""Pages of an upstream beside the completions: its models, its balance; fetched as a worker would call it."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

import orjson

from app.platform.ports import Clock
from app.settings import UpstreamHeaders, UpstreamSettings
from app.upstreams.call_upstream import USER_AGENT
from app.upstreams.domain.key_health import Probe
from app.upstreams.domain.page import FetchedPage
from app.upstreams.upstream_answer import HttpResponse
from app.upstreams.upstream_call import TROUBLES, IncompleteCall, UpstreamCall
from app.upstreams.upstream_connections import ConnectionPool

_MOST = 4 * 1024 * 1024  # bytes of a page


class UpstreamPages:
    """One upstream. By its proxy, with its headers and its rules for TLS; each GET on a connection of its own."""

    def __init__(
        self,
        upstream: UpstreamSettings,
        *,
        clock: Clock,
        seconds: float = 10.0,
        outfit: UpstreamHeaders | None = None,
    ) -> None:
        """`seconds` for one page. Raises ConfigError when the `ca_file` holds no certificate."""
        self._base = urlsplit(upstream.base_url).path
        self._connections = ConnectionPool(upstream, most_idle=0, clock=clock, outfit=outfit)
        self._clock = clock
        self._seconds = seconds

    def models(self, secret: str = "") -> FetchedPage:
        """What GET /models answers, with a key or without one. Never raises for what the other side does."""
        return self._get(f"{self._base}/models", secret)

    def balance(self, secret: str) -> FetchedPage:
        """What its balance page answers. Where there is one, it stands before the version or at the root (DeepSeek)."""
        before = self._base.removesuffix("/v1")
        page = self._get(f"{before}/user/balance", secret)
        return self._get("/user/balance", secret) if page.status == 404 and before else page

    def page(self, test: Probe, secret: str) -> FetchedPage:
        """The page that a test of a key asks for."""
        return self.models(secret) if test is Probe.MODELS else self.balance(secret)

    def _get(self, path: str, secret: str) -> FetchedPage:
        call, asked_at, begun = UpstreamCall(self._seconds), self._clock.now(), time.monotonic()

        def failed(error: Exception) -> FetchedPage:
            fault = error.fault if isinstance(error, IncompleteCall) else call.fault(error)
            return FetchedPage(asked_at=asked_at, seconds=time.monotonic() - begun, error=fault.message)

        try:
            loan = self._connections.borrow()
        except TROUBLES as error:
            return failed(error)
        loan.clean = False
        try:
            call.sending(loan.socket)
            loan.connection.request(
                "GET", self._connections.base + path, headers=self._headers(secret), preload_content=False
            )
            response = loan.connection.getresponse()
            call.reading()
            body = HttpResponse(call, response, self._clock.now()).read(_MOST)
        except (IncompleteCall, *TROUBLES) as error:
            return failed(error)
        finally:
            call.done()
            self._connections.give_back(loan)
        headers = {name.lower(): value for name, value in response.headers.items()}
        return FetchedPage(response.status, headers, _json(body), time.monotonic() - begun, asked_at)

    def _headers(self, secret: str) -> dict[str, str]:
        found = {"user-agent": USER_AGENT, **self._connections.headers, "accept": "application/json"}
        return {**found, "authorization": f"Bearer {secret}"} if secret else found


def _json(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
