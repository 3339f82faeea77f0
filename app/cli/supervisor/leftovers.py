"""The record of one run in its data folder: who works there, and what a killed run left behind."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

Identity = tuple[int, float]  # process id, and when that process was made: an id alone is used again


class AlreadyRunningError(Exception):
    """Another supervisor works in this folder; `pid` is its process, if that is known."""

    def __init__(self, pid: int | None) -> None:
        super().__init__(pid)
        self.pid = pid


class Run:
    """The record of this run: `DIR/run/processes.json`, written before each process is relied on."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "processes.json"

    def record(self, processes: Mapping[str, int]) -> None:
        """Write down the processes (name -> id) that are ours now."""
        known = {name: _identity(pid) for name, pid in {"supervisor": os.getpid(), **processes}.items()}
        partial = self._file.with_suffix(".new")
        partial.write_text(json.dumps({name: who for name, who in known.items() if who}))
        partial.replace(self._file)

    def recorded(self) -> dict[str, Identity]:
        """What the last run wrote down; nothing when it ended in order."""
        try:
            return {name: (int(pid), float(made)) for name, (pid, made) in _load(self._file).items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}

    def clear(self) -> None:
        """Everything has ended in order."""
        self._file.unlink(missing_ok=True)


def supervisor_of(folder: Path) -> int | None:
    """The process that works in `folder` now; None when nobody does."""
    found = Run(folder).recorded().get("supervisor")
    return found[0] if found is not None and _identity(found[0]) == found else None


@contextmanager
def sole(folder: Path) -> Iterator[Run]:
    """Hold `folder` for as long as this run lasts. Raises AlreadyRunningError.

    The lock is the kernel's, so that it goes with the process whatever its death was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder)
    with (folder / "lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = run.recorded().get("supervisor")
            raise AlreadyRunningError(holder[0] if holder else None) from None
        yield run


def end_leftovers(run: Run) -> list[str]:
    """Kill what a killed run left alive in spite of its lifelines; returns the names."""
    alive = {name: pid for name, (pid, made) in run.recorded().items() if _identity(pid) == (pid, made)}
    alive.pop("supervisor", None)
    for pid in alive.values():
        _kill_group(pid)
    run.clear()
    return sorted(alive)


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
        psutil.Process(pid).wait(timeout=5)
    except (ProcessLookupError, psutil.Error):
        pass


def _identity(pid: int) -> Identity | None:
    try:
        return pid, psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def _load(file: Path) -> dict[str, list[float]]:
    loaded: dict[str, list[float]] = json.loads(file.read_text())
    return loaded
