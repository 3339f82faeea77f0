"""Tests of upstream keys: GET /models and GET /user/balance, each within its own time. Secrets are shown to nobody."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson

from app.platform.ports import Clock
from app.settings import (
    ConfigError,
    Settings,
    UpstreamHeaders,
    UpstreamSettings,
    resolve_secret,
    upstream_headers,
)
from app.tasks.domain.attempt import Outcome
from app.upstreams.call_upstream import USER_AGENT, profile_of
from app.upstreams.domain.classify import UpstreamProfile, outcome_of
from app.upstreams.domain.key_health import KeyTestResult, Probe, Probed, judge_offer
from app.upstreams.domain.reply import FetchedPage
from app.upstreams.domain.upstream_error import read_error
from app.upstreams.upstream_call import (
    TRANSPORT_EXCEPTIONS,
    HttpResponse,
    IncompleteCall,
    UpstreamCall,
    UpstreamConnections,
    open_socket_of,
)

_MAX_PAGE = 4 * 1024 * 1024  # bytes


class UpstreamPages:
    """Pages of one upstream, through its proxy, with its headers and TLS rules; a new connection for each GET."""

    def __init__(
        self,
        upstream: UpstreamSettings,
        *,
        clock: Clock,
        seconds: float = 10.0,
        headers: UpstreamHeaders | None = None,
    ) -> None:
        """`seconds` for one page. Raises ConfigError when the `ca_file` holds no certificate."""
        self._base = urlsplit(upstream.base_url).path
        self._connections = UpstreamConnections(upstream, max_idle=0, clock=clock, headers=headers)
        self._clock = clock
        self._seconds = seconds
        self._profile = profile_of(upstream)

    def models(self, secret: str = "") -> FetchedPage:
        """GET /models, with a key or without one. Nothing that the upstream does raises."""
        return self._get(f"{self._base}/models", secret)

    def balance(self, secret: str) -> FetchedPage:
        """GET /user/balance, at the root or before the version as DeepSeek has it."""
        before = self._base.removesuffix("/v1")
        page = self._get(f"{before}/user/balance", secret)
        return self._get("/user/balance", secret) if page.status == 404 and before else page

    def page(self, test: Probe, secret: str) -> FetchedPage:
        """The page for a test of a key."""
        return self.models(secret) if test is Probe.MODELS else self.balance(secret)

    def _get(self, path: str, secret: str) -> FetchedPage:
        call, asked_at, begun = UpstreamCall(self._seconds), self._clock.now(), time.monotonic()

        def failed(error: Exception) -> FetchedPage:
            fault = error.fault if isinstance(error, IncompleteCall) else call.fault(error)
            return FetchedPage(asked_at=asked_at, seconds=time.monotonic() - begun, error=fault.message)

        try:
            pooled = self._connections.acquire()
        except TRANSPORT_EXCEPTIONS as error:
            return failed(error)
        try:
            call.sending(open_socket_of(pooled))
            pooled.connection.request(
                "GET", self._connections.base + path, headers=self._headers(secret), preload_content=False
            )
            response = pooled.connection.getresponse()
            call.reading()
            body = HttpResponse(call, response, self._clock.now()).read(_MAX_PAGE)
        except (IncompleteCall, *TRANSPORT_EXCEPTIONS) as error:
            return failed(error)
        finally:
            call.done()
            self._connections.release(pooled)
        headers = {name.lower(): value for name, value in response.headers.items()}
        return FetchedPage(response.status, headers, _json(body), time.monotonic() - begun, asked_at)

    def _headers(self, secret: str) -> dict[str, str]:
        found = {"user-agent": USER_AGENT, **self._connections.headers, "accept": "application/json"}
        return {**found, **self._profile.auth_header(secret)} if secret else found


def _json(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


_REFUSED = {401, 403}
_OPEN = "it answers, but anybody may list its models: only a call shows whether the key works"
_SEEN_SECONDS = 3600.0  # for which it is remembered whether a list of models is open
_NOT_OFFERED = {404, 405, 501}


class UpstreamTests:
    """Implements the Tester port. Resolves the secret for each test, as it may have been added since."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], clock: Clock) -> None:
        self._settings = settings
        self._keys = {key.name: key for key in settings.keys}
        self._upstreams = {upstream.name: upstream for upstream in settings.upstreams}
        self._environ = environ
        self._seconds = settings.health.timeout
        self._clock = clock
        self._open: dict[
            str, tuple[float, bool]
        ] = {}  # by upstream: when it was seen whether anybody may ask

    def test(self, key: str, test: Probe) -> Probed:
        """Ask the key's upstream. Neither an upstream nor a missing secret raises."""
        begun = self._clock.monotonic()

        def found(finding: KeyTestResult, status: int | None, words: str, proves: bool = True) -> Probed:
            return Probed(finding, self._clock.now(), self._clock.monotonic() - begun, status, words, proves)

        known = self._keys[key]
        try:
            secret = resolve_secret(known.secret, self._environ)
            headers = upstream_headers(self._settings, self._environ, {known.upstream})[known.upstream]
            upstream = self._upstreams[known.upstream]
            pages = UpstreamPages(upstream, clock=self._clock, seconds=self._seconds, headers=headers)
        except ConfigError as error:  # a worker may have it: its next call will show
            return found(KeyTestResult.NOT_OFFERED, None, f"it cannot be tested from here: {error.message}")
        page = pages.page(test, secret)
        if page.error:
            return found(KeyTestResult.NO_ANSWER, None, page.error)
        finding, status, words = _finding(test, page.status, page.body, profile_of(upstream))
        if finding is not KeyTestResult.WORKS or test is not Probe.MODELS:
            return found(finding, status, words)
        is_open = self._is_open(upstream.name, pages)
        said = [_OPEN if is_open else words, judge_offer(page.body, self._models_of(key))]
        return found(finding, status, "; ".join(filter(None, said)), not is_open)

    def _is_open(self, upstream: str, pages: UpstreamPages) -> bool:
        """Whether the list of models is open to anybody, so that it proves nothing about a key."""
        seen_at, is_open = self._open.get(upstream, (-math.inf, False))
        if self._clock.monotonic() - seen_at > _SEEN_SECONDS:
            is_open = pages.models().status == 200
            self._open[upstream] = (self._clock.monotonic(), is_open)
        return is_open

    def _models_of(self, key: str) -> list[str]:
        """The upstream's names of the models that are routed to a key."""
        routes = (route for model in self._settings.models for tier in model.routes() for route in tier)
        return list(dict.fromkeys(route.upstream_model for route in routes if route.key == key))


def _finding(test: Probe, status: int, body: Any, profile: UpstreamProfile) -> tuple[KeyTestResult, int, str]:
    error = read_error(body, profile.shape)
    if status in _REFUSED or (status == 400 and outcome_of(status, error, profile) is Outcome.UNAUTHORIZED):
        return KeyTestResult.REFUSED, status, f"the upstream refuses the key ({status})"
    if status in _NOT_OFFERED:
        return KeyTestResult.NOT_OFFERED, status, f"the upstream has no such page ({status})"
    if status != 200:
        return KeyTestResult.NO_ANSWER, status, f"the upstream answers {status}"
    if test is Probe.MODELS:
        return KeyTestResult.WORKS, status, "the key works"
    available = _available(body)
    if available is None:
        return KeyTestResult.NOT_OFFERED, status, "the upstream's balance page has an unknown format"
    words = "there is a balance" if available else "there is no balance"
    return (KeyTestResult.WORKS if available else KeyTestResult.REFUSED), status, words


def _available(said: Any) -> bool | None:
    available = said.get("is_available") if isinstance(said, dict) else None
    return available if isinstance(available, bool) else None
