"""Whether the client of the request that is being served is still there."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Mapping
from typing import Any

_SOCKETS = ("gunicorn.socket", "werkzeug.socket")


def watch_peer(environ: Mapping[str, Any]) -> Callable[[], bool]:
    """A function that tells whether the client has hung up; it looks at the socket and takes nothing from it.

    Where the server does not show its socket, nobody is ever seen to hang up.
    """
    sock = next((environ[name] for name in _SOCKETS if isinstance(environ.get(name), socket.socket)), None)
    if sock is None:
        return lambda: False
    return lambda: _hung_up(sock)


def _hung_up(sock: socket.socket) -> bool:
    try:
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        if not poll.poll(0):
            return False
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except (OSError, ValueError):
        return True
