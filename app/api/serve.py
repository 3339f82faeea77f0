"""Serve the API by gunicorn's threads: one for each long poll, and plenty beside them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication

from app.api.http_worker import worker_with

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

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
