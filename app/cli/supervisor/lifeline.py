"""The supervised side: a process that dies with its supervisor, and tells it when it is ready.

The supervisor holds the writing end of a pipe that nobody writes to. When it goes, by whatever death, the
reading end in each of its processes comes to its end, and they kill themselves and what they started. On
Linux the kernel is asked for the same, in case the watching thread does not get to run.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable

LIFELINE = "PENSTOCK_LIFELINE"  # file descriptor of the pipe's reading end
SUPERVISOR = "PENSTOCK_SUPERVISOR"  # process id
READY = "PENSTOCK_READY"  # file descriptor to write one byte to
_PR_SET_PDEATHSIG = 1


_last_deeds: list[Callable[[], None]] = []


def hold() -> None:
    """Die with the supervisor from now on; nothing happens in a process that has none."""
    inherited = os.environ.pop(LIFELINE, None)
    if inherited is None:
        return
    _die_with(int(os.environ.pop(SUPERVISOR)))
    os.register_at_fork(after_in_child=_die_with_parent)
    threading.Thread(target=_watch, args=(int(inherited),), name="lifeline", daemon=True).start()


def before_death(deed: Callable[[], None]) -> None:
    """Do this before dying with the supervisor, such as ending a server in a session of its own.

    The kernel is then no longer asked to kill this process, as that would leave it no time.
    """
    _last_deeds.append(deed)
    _prctl_death_signal(0)


def ready() -> None:
    """Tell the supervisor that this process works; once is enough, and without one it does nothing."""
    inherited = os.environ.pop(READY, None)
    if inherited is None:
        return
    descriptor = int(inherited)
    try:
        os.write(descriptor, b"\n")
    except BrokenPipeError:  # it is gone; the lifeline will say so
        pass
    finally:
        os.close(descriptor)


def _watch(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    try:
        for deed in _last_deeds:
            deed()
    finally:
        _kill_own_group()


def _kill_own_group() -> None:
    """With everything we forked, when the group is ours alone."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _die_with(parent: int) -> None:
    _die_with_parent()
    if sys.platform == "linux" and os.getppid() != parent:  # it went before we could ask
        _kill_own_group()


def _die_with_parent() -> None:
    _prctl_death_signal(signal.SIGKILL)


def _prctl_death_signal(number: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)
