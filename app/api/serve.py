"""Serve the API with gunicorn, and swap the application on a configuration reload."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication
from werkzeug.wsgi import ClosingIterator

from app.api.http_worker import worker_with

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from app.api.application import PenstockApi
    from app.settings import Settings

_GARBAGE = 10_000  # objects made, less those gone, between two looks for cycles: some megabytes


@dataclass(frozen=True, slots=True)
class Serving:
    """How to serve."""

    host: str = "127.0.0.1"
    port: int = 8000
    processes: int = 1  # each with waiters, threads and database connections of its own
    threads: int = 576
    patience_seconds: float = 30.0  # see paced_reading.py
    graceful_seconds: float = 30.0  # what running requests get after SIGTERM


def serve(make_app: Callable[[], WSGIApplication], how: Serving) -> None:
    """Serve until SIGTERM or SIGINT. `make_app` is called in each process, after the fork.

    On SIGTERM nothing new is accepted, long polls answer at once with what stands, other requests finish.
    """
    _Gunicorn(make_app, how).run()


class _Gunicorn(BaseApplication):  # type: ignore[misc]
    def __init__(self, make_app: Callable[[], WSGIApplication], how: Serving) -> None:
        self._make_app = make_app
        self._how = how
        super().__init__()

    def load_config(self) -> None:
        for name, value in options(self._how).items():
            self.cfg.set(name, value)

    def load(self) -> WSGIApplication:
        app = self._make_app()
        if start := getattr(app, "start", None):
            start()
        spare_collector()
        return app


def spare_collector() -> None:
    """Let the collector of cycles pass over what lives as long as the process, and come for more at a time.

    A request leaves some thousand objects and hardly a cycle; by its usual measure Python looked for cycles at nearly
    every request, and each time that reached the oldest generation, at all that modules hold.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE, 20, 20)


def options(how: Serving) -> dict[str, Any]:
    """gunicorn's settings, and why they are so."""
    return {
        "bind": f"[{how.host}]:{how.port}" if ":" in how.host else f"{how.host}:{how.port}",
        "workers": how.processes,
        "worker_class": worker_with(how.patience_seconds),
        "threads": how.threads,
        "worker_connections": how.threads
        + 1024,  # those that are idle, or have sent no whole head, hold no thread
        "keepalive": 75,  # longer than the pools of clients and proxies keep theirs
        "timeout": 60,  # of the process' own heartbeat, not of requests
        "graceful_timeout": int(how.graceful_seconds),
        "backlog": 2048,
        "limit_request_line": 8190,
        # The application reads X-Forwarded-* itself. gunicorn would let any peer on loopback, such as what a proxy
        # passes on, set the path by a header SCRIPT_NAME.
        "forwarder_headers": "",
        "forwarded_allow_ips": "",
        "preload_app": False,  # database connections and threads must be born after the fork
        "control_socket_disable": True,
        "accesslog": None,
        "errorlog": "-",
        "loglevel": "warning",
        "proc_name": "penstock-api",
    }


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
