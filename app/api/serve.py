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

_GARBAGE = 10_000  # net allocations between two collections: some megabytes


@dataclass(frozen=True, slots=True)
class Serving:
    """Server options."""

    host: str = "127.0.0.1"
    port: int = 8000
    processes: int = 1  # each with its own waiters, threads and database connections
    threads: int = 2112
    patience_seconds: float = 30.0  # how long a client may keep us waiting, see SlowClientGuard
    graceful_seconds: float = 30.0  # for requests in progress after SIGTERM


def serve(make_app: Callable[[], WSGIApplication], how: Serving) -> None:
    """Serve until SIGTERM or SIGINT. `make_app` is called in each process, after the fork.

    On SIGTERM new connections are refused, long polls answer at once, and other requests finish.
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
        tune_garbage_collector()
        return app


def tune_garbage_collector() -> None:
    """Exclude long-lived objects from garbage collection, and collect less often.

    A request creates some thousand objects and hardly a cycle; with Python's defaults nearly every request triggered
    a collection, and some of them traversed all objects of all modules.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE, 20, 20)


def options(how: Serving) -> dict[str, Any]:
    """gunicorn's settings."""
    return {
        "bind": f"[{how.host}]:{how.port}" if ":" in how.host else f"{how.host}:{how.port}",
        "workers": how.processes,
        "worker_class": worker_with(how.patience_seconds),
        "threads": how.threads,
        "worker_connections": how.threads
        + 1024,  # idle ones, and those without complete headers, hold no thread
        "keepalive": 75,  # longer than the pools of common clients and proxies
        "timeout": 60,  # of the worker's heartbeat, not of requests
        "graceful_timeout": int(how.graceful_seconds),
        "backlog": 2048,
        "limit_request_line": 8190,
        # The application reads X-Forwarded-* itself. gunicorn would let any peer on loopback, such as a proxy, set the
        # path with a SCRIPT_NAME header.
        "forwarder_headers": "",
        "forwarded_allow_ips": "",
        "preload_app": False,  # database connections and threads must be created after the fork
        "control_socket_disable": True,
        "accesslog": None,
        "errorlog": "-",
        "loglevel": "warning",
        "proc_name": "penstock-api",
    }


PATIENCE_SECONDS = 900.0  # for requests in progress in the old application
_LOOK_SECONDS = 0.2


@dataclass(slots=True)
class _Served:
    """An application, and the number of its requests in progress."""

    app: PenstockApi
    busy: int = 0


class ReloadableApp:
    """A WSGI application that can be replaced while serving: requests in progress finish in the old one.

    `make` builds an application for a configuration, and may raise ConfigError. All request threads call it, one thread
    renews; `_lock` guards the fields.
    """

    def __init__(self, make: Callable[[Settings], PenstockApi], settings: Settings) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._now = _Served(make(settings))
        self._old: list[_Served] = []

    @property
    def app(self) -> PenstockApi:
        """The application that serves new requests."""
        return self._now.app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Serve a request entirely with the newest application."""
        with self._lock:
            served = self._now
            served.busy += 1
        try:
            body = served.app(environ, start_response)
        except BaseException:
            self._done(served)
            raise
        if isinstance(body, list):  # complete: sending it needs nothing from the application
            self._done(served)
            return body
        return ClosingIterator(body, [lambda: self._done(served)])

    def start(self) -> None:
        """Start the background work of a serving process."""
        self.app.start()

    def renew(self, settings: Settings) -> None:
        """Replace the application. On ConfigError, which is raised, the old one remains."""
        newer = _Served(self._make(settings))
        newer.app.start()
        with self._lock:
            older, self._now = self._now, newer
            self._old.append(older)
        older.app.live.end_streams()  # pages reconnect to the new application
        threading.Thread(target=self._retire, args=(older,), name="retire", daemon=True).start()

    def drain(self) -> None:
        """Answer all long polls at once, those of old applications too."""
        with self._lock:
            all_ = [self._now, *self._old]
        for served in all_:
            served.app.drain()

    def close(self) -> None:
        """Stop the threads that requests have started."""
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
