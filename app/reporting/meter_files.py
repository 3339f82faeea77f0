"""A folder in which the processes of one machine count together (prometheus_client's multiprocess mode).

Each process writes files named after its process id. Counters survive a process: when one ends, its counters and
histograms are merged into shared files (`counter_gone.db`) and its own files are deleted. A reader holds the folder's
lock, so that nothing is counted twice.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_GONE, _ASIDE = "gone", "dead"
_FOLDED = "folded"  # names what is in the new sums
_SUMMED = ("counter", "histogram")


def clean_folder(folder: Path) -> None:
    """Create the folder, or empty it: a new run counts from 0."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for pattern in ("*.db", f"*.{_ASIDE}", "*.new", f"{_FOLDED}*"):
        for file in folder.glob(pattern):
            file.unlink(missing_ok=True)


class FolderCollector:
    """Collects the metrics of all processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._merged = MultiProcessCollector(CollectorRegistry(), str(folder))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterable[Metric]:
        """The sums over live and dead processes."""
        with _locked(self._folder):
            fold_dead(self._folder)
            return list(self._merged.collect())  # type: ignore[no-untyped-call]


def fold_dead(folder: Path) -> int:
    """Merge the files of dead processes; returns how many. The caller holds the folder's lock.

    A kill at any point loses nothing and counts nothing twice: the files are renamed first, the new sums are written
    next to the old ones, and `_finish` swaps them once a list says that the new sums are complete.
    """
    _finish(folder)
    dead = [file for file in folder.glob("*_*.db") if _is_dead(file)]
    for file in dead:
        _set_aside(file)
    aside = list(folder.glob(f"*.{_ASIDE}"))
    for kind in _SUMMED:
        if files := [file for file in aside if file.name.startswith(f"{kind}_")]:
            _add_up(folder, kind, files)
    if aside:
        _write_list(folder, aside)
        _finish(folder)
    return len(dead)


def _is_dead(file: Path) -> bool:
    number = file.stem.rpartition("_")[2]
    return number.isdigit() and not psutil.pid_exists(int(number))


def _set_aside(file: Path) -> None:
    """Rename a file, so that a process that reuses the id cannot write to it. Gauges end with their process."""
    if file.name.startswith(tuple(f"{kind}_" for kind in _SUMMED)):
        file.rename(file.with_suffix(f".{time.time_ns()}.{_ASIDE}"))
    else:
        file.unlink(missing_ok=True)


def _add_up(folder: Path, kind: str, files: list[Path]) -> None:
    """Write the new sums next to the old ones."""
    gone, new = _sums(folder, kind)
    new.unlink(missing_ok=True)
    sums: dict[str, float] = {}
    for file in [*files, *([gone] if gone.exists() else [])]:
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
            sums[key] = sums.get(key, 0.0) + value
    written = MmapedDict(str(new))  # type: ignore[no-untyped-call]
    for key, value in sums.items():
        written.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
    written.close()  # type: ignore[no-untyped-call]


def _sums(folder: Path, kind: str) -> tuple[Path, Path]:
    return folder / f"{kind}_{_GONE}.db", folder / f"{kind}_{_GONE}.new"


def _write_list(folder: Path, files: list[Path]) -> None:
    """Record that the new sums include these files."""
    draft = folder / f"{_FOLDED}.draft"
    draft.write_text("\n".join(file.name for file in files))
    draft.replace(folder / _FOLDED)


def _finish(folder: Path) -> None:
    """Replace the old sums by complete new ones. Can be repeated from any point."""
    folded = folder / _FOLDED
    if not folded.exists():
        return
    for kind in _SUMMED:
        gone, new = _sums(folder, kind)
        if new.exists():
            new.replace(gone)
    for name in folded.read_text().split("\n"):
        (folder / name).unlink(missing_ok=True)
    folded.unlink()


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
    """The folder that this process counts into; None: it counts alone."""
    named = os.environ.get(FOLDER)
    return Path(named) if named else None
