"""The supervised side: a process that dies with its supervisor and reports when it is ready.

The supervisor holds the write end of a pipe that is never written to. However it dies, the read end in each of its
processes reaches end of file, and they kill themselves and what they started. On Linux the kernel does the same, in
case the watching thread does not get to run.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable

LIFELINE = "PENSTOCK_LIFELINE"  # file descriptor of the pipe's read end
SUPERVISOR = "PENSTOCK_SUPERVISOR"  # process id
READY = "PENSTOCK_READY"  # file descriptor to write one byte to
_PR_SET_PDEATHSIG = 1


_last_actions: list[Callable[[], None]] = []


def hold() -> None:
    """Die with the supervisor from now on; does nothing without one."""
    inherited = os.environ.pop(LIFELINE, None)
    if inherited is None:
        return
    _die_with(int(os.environ.pop(SUPERVISOR)))
    os.register_at_fork(after_in_child=_die_with_parent)
    threading.Thread(target=_watch, args=(int(inherited),), name="lifeline", daemon=True).start()


def before_death(action: Callable[[], None]) -> None:
    """Run `action` before dying with the supervisor, such as stopping a server in its own session.

    The kernel then no longer kills this process, as that would leave no time.
    """
    _last_actions.append(action)
    _prctl_death_signal(0)


def ready() -> None:
    """Report this process ready to the supervisor; does nothing the second time or without one."""
    inherited = os.environ.pop(READY, None)
    if inherited is None:
        return
    descriptor = int(inherited)
    try:
        os.write(descriptor, b"\n")
    except BrokenPipeError:  # the supervisor is gone; the lifeline handles it
        pass
    finally:
        os.close(descriptor)


def _watch(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    try:
        for action in _last_actions:
            action()
    finally:
        _kill_own_group()


def _kill_own_group() -> None:
    """Kill this process, and its group if it leads one."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _die_with(parent: int) -> None:
    _die_with_parent()
    if sys.platform == "linux" and os.getppid() != parent:  # the supervisor died before the call
        _kill_own_group()


def _die_with_parent() -> None:
    _prctl_death_signal(signal.SIGKILL)


def _prctl_death_signal(number: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)
