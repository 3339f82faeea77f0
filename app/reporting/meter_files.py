"""A folder in which the processes of one machine count together (prometheus_client's multiprocess mode).

Each process writes files that carry its process id. What a process has counted must not vanish with it, or every
counter would seem to start anew: the counters and histograms of the dead are added to files of nobody's
(`counter_gone.db`), and their own are deleted. Who reads holds the folder's lock, so that nothing is read twice.
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
    """Make the folder, with nothing in it: a new run begins to count at 0."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for pattern in ("*.db", f"*.{_ASIDE}", "*.new", f"{_FOLDED}*"):
        for file in folder.glob(pattern):
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
    """Add up what dead processes have left; returns how many files went. The folder's lock is held.

    Whoever is killed in here loses nothing and counts nothing twice: their files are set aside first, the sums are
    written beside the old ones, and `_finish` exchanges both once a list says that the sums are whole.
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
    """Under a name that no process will write to, were its number given out again. Gauges die with their process."""
    if file.name.startswith(tuple(f"{kind}_" for kind in _SUMMED)):
        file.rename(file.with_suffix(f".{time.time_ns()}.{_ASIDE}"))
    else:
        file.unlink(missing_ok=True)


def _add_up(folder: Path, kind: str, files: list[Path]) -> None:
    """Into a new file beside the old one."""
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
    """From here on these files are in the new sums."""
    draft = folder / f"{_FOLDED}.draft"
    draft.write_text("\n".join(file.name for file in files))
    draft.replace(folder / _FOLDED)


def _finish(folder: Path) -> None:
    """Put new sums that are whole in the place of the old ones. May be repeated from any point."""
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
    """The folder that this process counts into; None: it counts by itself."""
    named = os.environ.get(FOLDER)
    return Path(named) if named else None
