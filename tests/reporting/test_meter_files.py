"""What dead processes have counted is added up once, wherever who adds it up is killed."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from app.reporting.meter_files import FolderCollector, clean_folder

GONE = (999_999_901, 999_999_902)  # beyond any process id
CHANGES = ("replace", "rename", "unlink")


class Killed(BaseException):
    """Nothing more happens."""


def leave(folder: Path, process: int, value: float) -> None:
    """What a process leaves that has counted."""
    for kind in ("counter", "histogram", "gauge_liveall"):
        file = MmapedDict(str(folder / f"{kind}_{process}.db"))  # type: ignore[no-untyped-call]
        key = mmap_key(f"penstock_{kind}", f"penstock_{kind}_total", [], [], "help")  # type: ignore[no-untyped-call]
        file.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
        file.close()  # type: ignore[no-untyped-call]


def counted(folder: Path) -> float:
    families: Any = FolderCollector(folder).collect()
    return sum(s.value for f in families if f.name == "penstock_counter" for s in f.samples)


def killed_at(patched: pytest.MonkeyPatch, step: int) -> None:
    """Before so many changes of names are done."""
    done = count(1)

    def dying(real: Any) -> Any:
        def change(*arguments: Any, **named: Any) -> Any:
            if next(done) >= step:
                raise Killed
            return real(*arguments, **named)

        return change

    for name in CHANGES:
        patched.setattr(Path, name, dying(getattr(Path, name)))


@pytest.mark.parametrize("step", range(1, 20))
def test_nothing_is_lost_or_counted_twice_wherever_one_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    clean_folder(tmp_path)
    leave(tmp_path, GONE[0], 3.0)
    assert counted(tmp_path) == 3.0
    leave(tmp_path, GONE[0], 4.0)  # its number was given out again
    leave(tmp_path, GONE[1], 5.0)
    with monkeypatch.context() as patched:
        killed_at(patched, step)
        try:
            counted(tmp_path)
        except Killed:
            pass
    assert [counted(tmp_path) for _ in range(2)] == [12.0, 12.0]
    left = {file.name for file in tmp_path.iterdir()} - {"lock"}
    assert left == {"counter_gone.db", "histogram_gone.db"}


def test_who_is_killed_and_whose_number_is_given_out_again_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(1, 20):
        clean_folder(tmp_path)
        leave(tmp_path, GONE[0], 4.0)
        with monkeypatch.context() as patched:
            killed_at(patched, step)
            try:
                counted(tmp_path)
            except Killed:
                pass
        if not (tmp_path / f"counter_{GONE[0]}.db").exists():
            leave(tmp_path, GONE[0], 2.0)
            assert counted(tmp_path) == 6.0, step
        assert counted(tmp_path) in (4.0, 6.0)


def test_a_new_run_begins_with_an_empty_folder(tmp_path: Path) -> None:
    for name in ("counter_1.db", "counter_1.5.dead", "counter_gone.new", "folded", "folded.draft"):
        (tmp_path / name).write_bytes(b"")
    clean_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []
