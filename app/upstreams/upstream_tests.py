"""Tests of upstream keys: GET /models and GET /user/balance, each within its own time. Secrets are shown to nobody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.platform.ports import Clock
from app.settings import ConfigError, Settings, outfits, resolve_secret
from app.tasks.domain.attempt import Outcome
from app.upstreams.domain.error_meaning import outcome_of
from app.upstreams.domain.key_health import KeyTestResult, Probe, Probed
from app.upstreams.domain.upstream_error import read_error
from app.upstreams.upstream_pages import UpstreamPages

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

        def found(finding: KeyTestResult, status: int | None, words: str) -> Probed:
            return Probed(finding, self._clock.now(), self._clock.monotonic() - begun, status, words)

        known = self._keys[key]
        try:
            secret = resolve_secret(known.secret, self._environ)
            outfit = outfits(self._settings, self._environ, {known.upstream})[known.upstream]
            upstream = self._upstreams[known.upstream]
            pages = UpstreamPages(upstream, clock=self._clock, seconds=self._seconds, outfit=outfit)
        except ConfigError as error:  # a worker may have it: its next call will tell
            return found(KeyTestResult.NOT_OFFERED, None, f"it cannot be tested from here: {error.message}")
        page = pages.page(test, secret)
        if page.error:
            return found(KeyTestResult.NO_ANSWER, None, page.error)
        return found(*_finding(test, page.status, page.body))


def _finding(test: Probe, status: int, body: Any) -> tuple[KeyTestResult, int, str]:
    if status in _REFUSED or (status == 400 and outcome_of(status, read_error(body)) is Outcome.UNAUTHORIZED):
        return KeyTestResult.REFUSED, status, f"the upstream refuses the key ({status})"
    if status in _NOT_OFFERED:
        return KeyTestResult.NOT_OFFERED, status, f"the upstream has no such page ({status})"
    if status != 200:
        return KeyTestResult.NO_ANSWER, status, f"the upstream answers {status}"
    if test is Probe.MODELS:
        return KeyTestResult.WORKS, status, "the key works"
    available = _available(body)
    if available is None:
        return KeyTestResult.NOT_OFFERED, status, "the upstream's balance page says nothing that we know"
    words = "there is a balance" if available else "there is no balance"
    return (KeyTestResult.WORKS if available else KeyTestResult.REFUSED), status, words


def _available(said: Any) -> bool | None:
    available = said.get("is_available") if isinstance(said, dict) else None
    return available if isinstance(available, bool) else None
