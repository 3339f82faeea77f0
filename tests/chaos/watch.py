"""What the upstream has seen so far, kept up to date by a thread: arrivals, and what the calls of each task came to."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence

from simulator.client import SimulatorControl


class UpstreamWatch:
    """Reads the simulator's log as it grows."""

    def __init__(self, upstream: SimulatorControl) -> None:
        self._upstream = upstream
        self._lock = threading.Lock()
        self._arrivals: list[float] = []
        self._tasks: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="upstream-watch", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._stop.wait(0.2):
            self.look()

    def look(self) -> None:
        """Read what is new."""
        with self._lock:
            new = self._upstream.log(len(self._arrivals))
            self._arrivals += [float(call["arrived_at"]) for call in new]
            self._tasks.update(str(call["task"]) for call in new)

    @property
    def sent(self) -> int:
        """Calls admitted."""
        return len(self._arrivals)

    @property
    def tasks(self) -> int:
        """Tasks of which a call was admitted."""
        return len(self._tasks)

    def arrivals(self) -> Sequence[float]:
        """Instants of all calls, Unix seconds, in order."""
        with self._lock:
            return list(self._arrivals)

    def calls(self) -> dict[str, list[str]]:
        """What each call of a task came to, in order. Read anew: calls end after they have arrived."""
        found: dict[str, list[str]] = defaultdict(list)
        for call in self._upstream.log():
            found[str(call["task"])].append(str(call["outcome"]))
        return found

    def close(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()
