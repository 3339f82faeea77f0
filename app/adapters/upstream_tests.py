"""Tests of upstream keys: GET /models and GET /user/balance, each within its own time. Secrets are shown to nobody."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

import orjson

from app.adapters.upstream import USER_AGENT
from app.adapters.upstream_answer import Answer
from app.adapters.upstream_call import TROUBLES, Call, CallFailed
from app.adapters.upstream_connections import Connections
from app.domain.key_health import Finding, Probe, Probed
from app.services.ports import Clock
from app.settings import ConfigError, Settings, outfits, resolve_secret

_MOST = 4 * 1024 * 1024  # bytes of a page
_REFUSED = {401, 403}
_NOT_OFFERED = {404, 405, 501}


class UpstreamTests:
    """Implements the Tester port. A secret is looked up for each test: it may have been put in place since."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], clock: Clock) -> None:
        self._settings = settings
        self._keys = {key.name: key for key in settings.keys}
        self._upstreams = {upstream.name: upstream for upstream in settings.upstreams}
        self._environ = environ
        self._seconds = settings.health.timeout
        self._clock = clock

    def test(self, key: str, test: Probe) -> Probed:
        """Ask the key's upstream. Never raises for what an upstream, or a secret that is not there, can cause."""
        begun = self._clock.monotonic()

        def found(finding: Finding, status: int | None, words: str) -> Probed:
            return Probed(finding, self._clock.now(), self._clock.monotonic() - begun, status, words)

        known = self._keys[key]
        try:
            secret = resolve_secret(known.secret, self._environ)
            outfit = outfits(self._settings, self._environ, {known.upstream})[known.upstream]
            connections = Connections(
                self._upstreams[known.upstream], most_idle=0, clock=self._clock, outfit=outfit
            )
        except ConfigError as error:  # a worker may have it: its next call will tell
            return found(Finding.NOT_OFFERED, None, f"it cannot be tested from here: {error.message}")
        try:
            path = _path(self._upstreams[known.upstream].base_url, test)
            status, body = self._get(connections, path, secret)
        except CallFailed as failed:
            return found(Finding.NO_ANSWER, failed.fault.status, failed.fault.message)
        return found(*_finding(test, status, body))

    def _get(self, connections: Connections, path: str, secret: str) -> tuple[int, bytes]:
        call = Call(self._seconds)
        headers = {
            "user-agent": USER_AGENT,
            **connections.headers,
            "authorization": f"Bearer {secret}",
            "accept": "application/json",
        }
        try:
            loan = connections.borrow()
        except TROUBLES as error:
            raise CallFailed(call.fault(error)) from None
        loan.clean = False
        try:
            call.sending(loan.socket)
            loan.connection.request("GET", connections.base + path, headers=headers, preload_content=False)
            response = loan.connection.getresponse()
            call.reading()
            return response.status, Answer(call, response, self._clock.now()).read(_MOST)
        except TROUBLES as error:
            raise CallFailed(call.fault(error)) from None
        finally:
            call.done()
            connections.give_back(loan)


def _path(base_url: str, test: Probe) -> str:
    """Models stand beside the completions; a balance, where there is one, before the version (DeepSeek's way)."""
    base = urlsplit(base_url).path
    return f"{base}/models" if test is Probe.MODELS else f"{base.removesuffix('/v1')}/user/balance"


def _finding(test: Probe, status: int, body: bytes) -> tuple[Finding, int, str]:
    if status in _REFUSED:
        return Finding.REFUSED, status, f"the upstream refuses the key ({status})"
    if status in _NOT_OFFERED:
        return Finding.NOT_OFFERED, status, f"the upstream has no such page ({status})"
    if status != 200:
        return Finding.NO_ANSWER, status, f"the upstream answers {status}"
    if test is Probe.MODELS:
        return Finding.WORKS, status, "the key works"
    available = _available(body)
    if available is None:
        return Finding.NOT_OFFERED, status, "the upstream's balance page says nothing that we know"
    words = "there is a balance" if available else "there is no balance"
    return (Finding.WORKS if available else Finding.REFUSED), status, words


def _available(body: bytes) -> bool | None:
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    available = said.get("is_available") if isinstance(said, dict) else None
    return available if isinstance(available, bool) else None
