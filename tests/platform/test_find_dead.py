"""Who is dead: silent for long, while it could have beaten."""

from collections.abc import Callable
from typing import Any

import pytest

from app.execution.store import workers
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.heartbeats import Beats, HeartbeatMonitor, Touch, find_dead
from app.submission import hold_connections

KINDS = {
    "worker": (workers.beats, workers.touch, lambda conn: workers.register(conn, "one", "host", 1, 0.0)),
    "holder": (
        hold_connections.beats,
        hold_connections.touch,
        lambda conn: hold_connections.beat(conn, "one", 0.0),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("full_from", "full_until", "dead_at"), [(99, 99, 12), (2, 9, 18), (7, 30, 37), (2, 5, 12)]
)
def test_silence_is_held_against_nobody_while_nothing_can_be_written(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    full_from: int,
    full_until: int,
    dead_at: int,
) -> None:
    """Twelve seconds of silence make dead. A refused write while one is overdue (six) counts it from nothing, so that
    there are six at least in which it could have beaten."""
    beats, touch, begin = KINDS[kind]
    database.write(begin)
    silence = HeartbeatMonitor(12.0)
    found = (
        at
        for at in range(100)
        if _look(database, monkeypatch, silence, beats, touch, at, full_from <= at < full_until)
    )
    assert next(found) == dead_at
    assert database.read(beats).keys() == {"one"}


def _look(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    silence: HeartbeatMonitor,
    beats: Beats,
    touch: Touch,
    at: float,
    full: bool,
) -> list[str]:
    def refuse(_fn: Callable[..., Any]) -> None:
        raise DatabaseUnreachable("no space left on device")

    with monkeypatch.context() as patched:
        if full:
            patched.setattr(database, "write", refuse)
        try:
            return find_dead(database, silence, beats, touch, at)
        except DatabaseUnreachable:
            return []
