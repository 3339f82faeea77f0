"""What is erased from SQLite is gone from its file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from app.dispatching.housekeeping import KeepRetention
from app.platform.database import Database
from app.platform.migrate import upgrade
from app.settings.models import StorageSettings
from app.tasks.store.tables import task_content
from tests.caching.clocks import MovableClock
from tests.tasks.rows import NOW, add, new_task, record, success, take

SECRET = "alpha-prompt-of-a-client"


@pytest.mark.parametrize("size", [1, 400])
@pytest.mark.parametrize("way", ["updated", "deleted"])
def test_erased_content_is_not_left_in_the_file(tmp_path: Path, way: str, size: int) -> None:
    """In a page of its row, and over pages of its own."""
    url = f"sqlite:///{tmp_path / 'penstock.db'}"
    upgrade(url)
    database = Database(url)
    add(database, new_task("a", request=f'{{"messages":"{SECRET * size}"}}'), new_task("b"))
    erase = delete(task_content) if way == "deleted" else update(task_content).values(request="{}")
    _checkpoint(tmp_path)
    assert SECRET.encode() in _bytes(tmp_path)
    database.write(lambda conn: conn.execute(erase))
    _checkpoint(tmp_path)
    database.close()
    assert SECRET.encode() not in _bytes(tmp_path)


def _checkpoint(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "penstock.db")) as conn:
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("penstock.db*")))


def test_what_retention_erases_is_not_left_in_the_log_either(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'penstock.db'}"
    upgrade(url)
    database = Database(url)
    add(database, new_task("a", request=f'{{"messages":"{SECRET}"}}', stored=False))
    (claimed,) = take(database, "task_a").values()
    record(database, success(claimed))
    clock = MovableClock()
    clock.ahead = NOW + 10_000 - clock.now()
    KeepRetention(database, clock, StorageSettings()).tick()
    assert SECRET.encode() not in _bytes(tmp_path)  # while the database is still open
    database.close()
