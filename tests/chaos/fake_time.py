"""Stepping the clock of the whole stack by libfaketime; monotonic clocks go on as they should."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PLACES = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/lib64/faketime", "/usr/local/lib/faketime")
READ_AGAIN_SECONDS = 1
# Python sleeps by clock_nanosleep until an instant of the monotonic clock, which libfaketime 0.9 reckons wrongly if it
# is to leave that clock alone (EINVAL): processes with it sleep by select instead.
SLEEP = "import select, time\ntime.sleep = lambda seconds: select.select([], [], [], seconds) and None\n"


def library() -> Path | None:
    """libfaketime for programs with threads; None where it is not installed."""
    for place in PLACES:
        for folder in sorted(Path("/").glob(place[1:])):
            if (found := folder / "libfaketimeMT.so.1").exists():
                return found
    return None


class Clock:
    """The wall clock of processes started with `environment`."""

    def __init__(self, folder: Path) -> None:
        found = library()
        assert found is not None, "libfaketime is not installed (on Debian: apt-get install faketime)"
        self._file = folder / "faketime"
        self.step(0)
        python = folder / "python"
        python.mkdir()
        (python / "sitecustomize.py").write_text(SLEEP, encoding="ascii")
        self.environment = {
            "LD_PRELOAD": str(found),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": str(READ_AGAIN_SECONDS),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(python), os.environ.get("PYTHONPATH")))),
        }

    def step(self, seconds: int) -> None:
        """So far from the true time from now on (noticed within READ_AGAIN_SECONDS)."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n", encoding="ascii")
        new.replace(self._file)


@contextmanager
def preloaded(clock: Clock | None) -> Iterator[None]:
    """What is started within goes by that clock; None: by the true one."""
    before = dict(os.environ)
    os.environ.update(clock.environment if clock else {})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
