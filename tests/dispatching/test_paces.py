"""The pace of a list: the leader's turn tells it while a chore of another thread asks for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from app.dispatching.publish_wait_reasons import EVERY, PublishWaitReasons
from app.pacing.domain.throughput import MEASURED_SECONDS

KEY = ("backlog.m.alice", 3)


class Interleaved(deque[float]):
    """Gives another thread its turn between a look at the first element and what is made of it."""

    meanwhile: Callable[[], object]

    def __getitem__(self, index: object) -> float:  # type: ignore[override]
        value = super().__getitem__(index)  # type: ignore[index]
        self.meanwhile()
        return value


def test_two_who_ask_at_one_instant_never_take_the_same_release_away() -> None:
    """Both see an old release at the front; only one may take it out, and nobody may look at an empty list."""
    why = PublishWaitReasons(board=None)  # type: ignore[arg-type]
    why.lists, why._due = (KEY,), MEASURED_SECONDS + 1 + EVERY
    times = why.paces._released[KEY] = Interleaved([0.0])
    other = threading.Thread(target=why.pace_of, args=(KEY[0], "m"), daemon=True)
    began = threading.Event()

    def meanwhile() -> None:
        if not began.is_set():
            began.set()
            other.start()
            other.join(0.2)  # it waits for its turn, or has taken the release away

    times.meanwhile = meanwhile
    assert why.pace_of(KEY[0], "m") is None
    other.join()
    assert KEY not in why.paces._released
