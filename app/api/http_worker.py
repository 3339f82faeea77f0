"""gunicorn's threaded worker, with our envelope for malformed HTTP, no thread for senders that are too slow, and an
end that long polls do not hold up.
"""

from __future__ import annotations

import time
from contextlib import suppress
from types import FrameType
from typing import Any

from gunicorn import util
from gunicorn.http import errors
from gunicorn.workers.gthread import ThreadWorker

from app.api.errors import envelope
from app.api.paced_reading import TooSlow, paced_parser
from app.domain.task import new_id

_STATUSES = (
    (TooSlow, 408, "Request Timeout"),
    (errors.LimitRequestLine, 414, "URI Too Long"),
    (errors.LimitRequestHeaders, 431, "Request Header Fields Too Large"),
    (errors.ExpectationFailed, 417, "Expectation Failed"),
    (errors.UnsupportedTransferCoding, 501, "Not Implemented"),
    (errors.ParseException, 400, "Bad Request"),
)


class WorkerOfThreads(ThreadWorker):  # type: ignore[misc]
    """One thread for each request that is being served; kept-alive connections hold none."""

    patience = 30.0  # seconds, see paced_reading.py

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On SIGTERM, ask the application to send its long polls home; then end as gunicorn does."""
        drain = getattr(self.wsgi, "drain", None)
        if self.alive and drain is not None:
            self.method_queue.defer(drain)  # runs in the main loop: a signal handler must take no lock
        super().handle_exit(sig, frame)

    def handle(self, conn: Any) -> Any:
        """Serve a connection's next request, and end the connection here if it was the last.

        gunicorn ends it in its main loop, which a client that does not hang up would hold for two seconds.
        """
        if conn.parser is None:
            conn.parser = paced_parser(self.cfg, conn, self.patience)
        else:
            conn.parser.unreader.begin()
        kept = super().handle(conn)
        if kept is False:
            with suppress(OSError):  # it is closed already
                conn.sock.setblocking(True)
                util.close_graceful(conn.sock)
            conn.close = _closed_already
        return kept

    def _keepalive_after(self, conn: Any, keepalive: bool) -> bool:
        """Whether the connection can serve another request; not when the rest of this one does not come."""
        try:
            return bool(super()._keepalive_after(conn, keepalive))
        except TooSlow:
            return False

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:  # noqa: ARG002
        """Answer what is not HTTP in the envelope that everything else has."""
        status, reason = next((known[1:] for known in _STATUSES if isinstance(exc, known[0])), (500, ""))
        if status == 500:
            self.log.error("a request failed outside the application: %s", type(exc).__name__)
        write_error(client, status, reason or "Internal Server Error")


def worker_with(patience: float) -> type[WorkerOfThreads]:
    """gunicorn makes its workers itself, from a class."""
    return type("PatientWorker", (WorkerOfThreads,), {"patience": patience})


def _closed_already(graceful: bool = False) -> None:
    """In place of a connection's `close`, once it is closed."""


def write_error(client: Any, status: int, reason: str) -> None:
    """Write a whole response to a socket; a client that is gone misses nothing."""
    message = "something went wrong here" if status == 500 else f"not a well-formed request: {reason}"
    type_ = "server_error" if status == 500 else "invalid_request_error"
    body = envelope(message, type_=type_, code="malformed_request" if status < 500 else "internal")
    head = (
        f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"x-request-id: {new_id('req', time.time())}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        util.write_nonblock(client, head.encode("latin-1") + body)
    except Exception:  # noqa: BLE001 - there is nobody left to tell
        return
