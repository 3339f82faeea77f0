"""Ports on this machine: whether one is free, and which to take."""

from __future__ import annotations

import errno
import socket

from app.cli.failure import CommandFailure, Exit

TRIES = 50


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now. Raises Failure when the address is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise CommandFailure(f"cannot listen on {host}: {error.strerror}", code=Exit.USAGE) from error
    return True


def choose(host: str, port: int, *, option: str, explicit: bool, taken: tuple[int, ...] = ()) -> int:
    """`port` if it is free, else the next free one, unless it was asked for by `option`. Port 0: any.

    Raises Failure.
    """
    if port == 0:
        return any_free(host)
    if explicit and (port in taken or not is_free(host, port)):
        raise CommandFailure(f"port {port} is taken", f"End what listens there, or name another by {option}.")
    free = (number for number in range(port, port + TRIES) if number not in taken and is_free(host, number))
    found = next(free, None)
    if found is None:
        raise CommandFailure(
            f"ports {port} to {port + TRIES - 1} are all taken", f"Name a free one by {option}."
        )
    return found


def any_free(host: str) -> int:
    """A port that was free a moment ago."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
