"""A folder in which the processes of one machine count together (prometheus_client's multiprocess mode).

Each process writes files that carry its process id. What a process has counted must not vanish with it, or every
counter would seem to start anew: the counters and histograms of the dead are added to files of nobody's
(`counter_gone.db`), and their own are deleted. Who reads holds the folder's lock, so that nothing is read twice.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_GONE = "gone"


def clean_folder(folder: Path) -> None:
    """Make the folder, with nothing in it: a new run begins to count at 0."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file in folder.glob("*.db"):
        file.unlink(missing_ok=True)


class FolderCollector:
    """All processes' figures as one: a registry's collector."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._merged = MultiProcessCollector(CollectorRegistry(), str(folder))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterable[Metric]:
        """The sums over the processes that live and those that are gone."""
        with _locked(self._folder):
            fold_dead(self._folder)
            return list(self._merged.collect())  # type: ignore[no-untyped-call]


def fold_dead(folder: Path) -> int:
    """Add up what dead processes have left; gives back how many files went. The folder's lock is held."""
    dead = [file for file in folder.glob("*_*.db") if _is_dead(file)]
    for kind in ("counter", "histogram"):
        if files := [file for file in dead if file.name.startswith(f"{kind}_")]:
            _add_up(folder, kind, files)
    for file in dead:
        file.unlink(missing_ok=True)
    return len(dead)


def _is_dead(file: Path) -> bool:
    number = file.stem.rpartition("_")[2]
    return number.isdigit() and not psutil.pid_exists(int(number))


def _add_up(folder: Path, kind: str, files: list[Path]) -> None:
    """Into a new file that takes the place of the old one at once: whoever is killed here loses nothing."""
    gone, new = folder / f"{kind}_{_GONE}.db", folder / f"{kind}_{_GONE}.new"
    new.unlink(missing_ok=True)
    sums: dict[str, float] = {}
    for file in [*files, *([gone] if gone.exists() else [])]:
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
            sums[key] = sums.get(key, 0.0) + value
    written = MmapedDict(str(new))  # type: ignore[no-untyped-call]
    for key, value in sums.items():
        written.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
    written.close()  # type: ignore[no-untyped-call]
    new.replace(gone)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("a") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(file.fileno(), fcntl.LOCK_UN)


def folder_in_use() -> Path | None:
    """The folder that this process counts into; None: it counts by itself."""
    named = os.environ.get(FOLDER)
    return Path(named) if named else None
