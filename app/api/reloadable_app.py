"""The application, exchanged while it serves: what is being answered goes on in the old one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from werkzeug.wsgi import ClosingIterator

from app.api.application import PenstockApi
from app.settings import Settings

PATIENCE_SECONDS = 900.0  # for what the old application still answers
_LOOK_SECONDS = 0.2


@dataclass(slots=True)
class _Served:
    """One application, and how many requests it has in hand."""

    app: PenstockApi
    busy: int = 0


class ReloadableApp:
    """A WSGI application. `make` builds one for a configuration, and may raise ConfigError."""

    def __init__(self, make: Callable[[Settings], PenstockApi], settings: Settings) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._now = _Served(make(settings))
        self._old: list[_Served] = []

    @property
    def app(self) -> PenstockApi:
        """The one that gets new requests."""
        return self._now.app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Serve a request by the newest application, to its end."""
        with self._lock:
            served = self._now
            served.busy += 1
        try:
            body = served.app(environ, start_response)
        except BaseException:
            self._done(served)
            raise
        if isinstance(body, list):  # it is whole: nothing of the application is needed to send it
            self._done(served)
            return body
        return ClosingIterator(body, [lambda: self._done(served)])

    def start(self) -> None:
        """What a serving process does beside requests."""
        self.app.start()

    def renew(self, settings: Settings) -> None:
        """Exchange it. Raises ConfigError; then the old one stays."""
        newer = _Served(self._make(settings))
        newer.app.start()
        with self._lock:
            older, self._now = self._now, newer
            self._old.append(older)
        older.app.live.end_streams()  # their pages ask again, and meet the new one
        threading.Thread(target=self._retire, args=(older,), name="retire", daemon=True).start()

    def drain(self) -> None:
        """Answer all long polls at once, of old ones too."""
        with self._lock:
            all_ = [self._now, *self._old]
        for served in all_:
            served.app.drain()

    def close(self) -> None:
        """End the threads that requests have started."""
        with self._lock:
            all_ = [self._now, *self._old]
        for served in all_:
            served.app.close()

    def _retire(self, served: _Served) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while served.busy and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
        with self._lock:
            self._old = [one for one in self._old if one is not served]
        served.app.drain()
        served.app.close()

    def _done(self, served: _Served) -> None:
        with self._lock:
            served.busy -= 1
