"""The secrets of the keys and upstreams that a process calls, resolved again on demand.

They are compared in memory and never written anywhere. A secret that can no longer be resolved keeps its value.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

import structlog
from pydantic import SecretStr

from app.platform.ports import Clock
from app.settings import ConfigError, Settings, UpstreamHeaders, key_secrets, upstream_headers

log = structlog.get_logger("penstock.secrets")
T = TypeVar("T")

AGAIN_SECONDS = 5.0  # between two resolutions of a refused key's secret

Take = Callable[[Mapping[str, SecretStr], Mapping[str, UpstreamHeaders]], object]


class HeldSecrets:
    """The secrets of one configuration in a worker process. Threads share it; `_lock` serializes resolutions."""

    def __init__(
        self,
        settings: Settings,
        keys: Collection[str],
        environ: Mapping[str, str],
        clock: Clock,
        before: HeldSecrets | None = None,
    ) -> None:
        """Resolves the secrets of `keys` and of their upstreams. Raises ConfigError.

        `before`: what the process held. An unchanged reference that cannot be resolved now keeps its old value.
        """
        self._settings, self._environ, self._clock = settings, environ, clock
        self._upstream_of = {key.name: key.upstream for key in settings.keys if key.name in keys}
        self._take: Take = lambda _secrets, _headers: None
        self._lock = threading.Lock()
        self._refused: set[str] = set()
        self._asked_at: dict[str, float] = {}  # by key, monotonic: the last resolution after a refusal
        old_secrets, old_headers = before._unchanged(settings) if before is not None else ({}, {})
        self.secrets = {
            name: found
            for name in self._upstream_of
            if (found := self._secret(name, old_secrets.get(name))) is not None
        }
        self.headers = {
            name: dressed
            for name in set(self._upstream_of.values())
            if (dressed := self._headers(name, old_headers.get(name))) is not None
        }

    def on_change(self, take: Take) -> None:
        """Call `take` with the changed secrets whenever some change."""
        self._take = take

    def refused(self, key: str) -> None:
        """Resolve this key's secrets again before its next call: the upstream refused it."""
        if key in self._upstream_of:
            self._refused.add(key)

    def before_call(self, key: str) -> None:
        """Resolve a refused key's secrets again, at most every AGAIN_SECONDS. Never raises."""
        if key not in self._refused:
            return
        with self._lock:
            now = self._clock.monotonic()
            if key in self._refused and now - self._asked_at.get(key, -math.inf) >= AGAIN_SECONDS:
                self._asked_at[key] = now
                self._refused.discard(key)
                self._resolve([key])

    def refresh(self) -> None:
        """Resolve all again. Never raises: what fails is logged and keeps its value."""
        with self._lock:
            self._refused.clear()
            self._resolve(self._upstream_of)

    def _resolve(self, keys: Iterable[str]) -> None:
        """Resolve and hand over the changes. Call under `_lock`."""
        names = list(keys)
        secrets = {name: self._secret(name, self.secrets[name]) for name in names}
        dressed = {
            name: self._headers(name, self.headers[name]) for name in {self._upstream_of[n] for n in names}
        }
        new_secrets = {n: s for n, s in secrets.items() if s is not None and s != self.secrets[n]}
        new_headers = {n: o for n, o in dressed.items() if o is not None and o != self.headers[n]}
        if not new_secrets and not new_headers:
            return
        try:
            self._take(new_secrets, new_headers)
        except ConfigError as error:
            log.error("rotated secrets rejected, old ones stay in use", reason=str(error))
            return
        self.secrets.update(new_secrets)
        self.headers.update(new_headers)
        log.info("rotated secrets are in use", keys=sorted(new_secrets), upstreams=sorted(new_headers))

    def _secret(self, key: str, old: SecretStr | None) -> SecretStr | None:
        return self._or_old(lambda: key_secrets(self._settings, self._environ, {key})[key], old)

    def _headers(self, upstream: str, old: UpstreamHeaders | None) -> UpstreamHeaders | None:
        return self._or_old(
            lambda: upstream_headers(self._settings, self._environ, {upstream})[upstream], old
        )

    @staticmethod
    def _or_old(resolve: Callable[[], T], old: T | None) -> T | None:
        """The resolved value, else `old`. Raises ConfigError if there is neither."""
        try:
            return resolve()
        except (ConfigError, OSError, ValueError) as error:
            if old is None:
                raise
            reason = str(error) if isinstance(error, ConfigError) else type(error).__name__
            log.error("a secret cannot be resolved again, the old one stays in use", reason=reason)
            return old

    def _unchanged(self, settings: Settings) -> tuple[dict[str, SecretStr], dict[str, UpstreamHeaders]]:
        """The secrets whose references are the same in another configuration."""
        mine = {key.name: key.secret for key in self._settings.keys}
        upstreams = {one.name: (one.headers, one.proxy_auth) for one in self._settings.upstreams}
        secrets = {key.name for key in settings.keys if mine.get(key.name) == key.secret}
        dressed = {o.name for o in settings.upstreams if upstreams.get(o.name) == (o.headers, o.proxy_auth)}
        return (
            {name: value for name, value in self.secrets.items() if name in secrets},
            {name: value for name, value in self.headers.items() if name in dressed},
        )
