"""The run record in the data folder: which processes run there, and what a killed run left behind."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

Identity = tuple[int, float]  # process id and start time: ids are reused


class AlreadyRunningError(Exception):
    """Another supervisor uses this folder; `pid` is its process, if known."""

    def __init__(self, pid: int | None) -> None:
        super().__init__(pid)
        self.pid = pid


class Run:
    """The record of this run, `DIR/run/processes.json`, written before a process is used."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "processes.json"

    def record(self, processes: Mapping[str, int]) -> None:
        """Record the current processes (name -> id)."""
        known = {name: _identity(pid) for name, pid in {"supervisor": os.getpid(), **processes}.items()}
        partial = self._file.with_suffix(".new")
        partial.write_text(json.dumps({name: who for name, who in known.items() if who}))
        partial.replace(self._file)

    def recorded(self) -> dict[str, Identity]:
        """The last run's record; empty if it ended cleanly."""
        try:
            return {name: (int(pid), float(made)) for name, (pid, made) in _load(self._file).items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}

    def clear(self) -> None:
        """Remove the record after a clean end."""
        self._file.unlink(missing_ok=True)


def supervisor_of(folder: Path) -> int | None:
    """The supervisor's process id in `folder`; None if none is running."""
    found = Run(folder).recorded().get("supervisor")
    return found[0] if found is not None and _identity(found[0]) == found else None


@contextmanager
def sole(folder: Path) -> Iterator[Run]:
    """Lock `folder` for this run. Raises AlreadyRunningError.

    The kernel releases the lock however the process ends.
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
    """Kill processes that a killed run left alive despite their lifelines; returns their names."""
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
