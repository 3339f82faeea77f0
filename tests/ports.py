"""Ports for servers that are started later, kept from everybody else until then."""

from __future__ import annotations

import socket
import sys

_kept: list[socket.socket] = []


def kept_port() -> int:
    """A TCP port on loopback that nobody else is given as long as this process lives.

    A socket stays bound to it and never listens. Where the system chooses a port, for a server or for an outgoing
    connection, it passes this one by; who binds it by its number with SO_REUSEADDR, as servers do, may listen there.
    That is so on Linux: elsewhere the port was only free a moment ago.
    """
    keeper = socket.socket()
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeper.bind(("127.0.0.1", 0))
    port = int(keeper.getsockname()[1])
    if sys.platform == "linux":
        _kept.append(keeper)
    else:
        keeper.close()
    return port
