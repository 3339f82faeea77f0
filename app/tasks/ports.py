"""What the use cases on tasks need from outside: the backlog queues, news of changes, and counters."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from app.tasks.domain.attempt import AttemptEnd, Message, Refusal


class BacklogPublisher(Protocol):
    """Backlog queues, as the API and the feeder see them. Never raises for an unreachable Redis: it refuses."""

    def publish(self, messages: Sequence[Message], *, feeding: bool = False) -> Mapping[str, Refusal]:
        """Put messages into their backlog queues in order; gives back the refused ids with the reason.

        A task that is already in place or holds a permit counts as accepted. `feeding` is the feeder's right to
        publish while rows wait in the database (others are refused with `behind`, so that order is kept).
        """

    def forget(self, task_ids: Iterable[str]) -> None:
        """Delete places: what was cancelled, expired or paused will be dropped at release, free of charge."""

    def announce(self, task_ids: Iterable[str]) -> None:
        """Tell waiters in all processes that these tasks (or batches) changed."""

    def ring(self) -> None:
        """Wake the dispatcher: rows wait in the database. Lost without harm; the feeder also looks by itself."""


class Meter(Protocol):
    """Counts what happens, where it happens, once it is committed. Never raises, and costs microseconds."""

    def submitted(self, way: str, client_id: str, model: str, count: int = 1) -> None:
        """Tasks were taken in: `single`, `chat`, `batch` or `file`. `model` empty: several."""

    def looked_up(self, *, found: bool) -> None:
        """A task asked the cache for its answer."""

    def called(self, ending: AttemptEnd, overhead_seconds: float) -> None:
        """An upstream call was recorded; `overhead_seconds` passed since its release beside the call itself."""

    def lost(self, model: str, key: str) -> None:
        """A call vanished with its worker."""

    def ended(self, counts: Mapping[str, int]) -> None:
        """Tasks came to their ends: how many, by status."""

    def delivered(self, result: str, seconds: float) -> None:
        """A callback was tried: it is `delivered`, `pending` (to be tried again) or `failed`."""

    def turned(self, seconds: float) -> None:
        """The dispatcher took a turn."""


class NoMeter:
    """Counts nothing."""

    def submitted(self, way: str, client_id: str, model: str, count: int = 1) -> None:
        """Nothing."""

    def looked_up(self, *, found: bool) -> None:
        """Nothing."""

    def called(self, ending: AttemptEnd, overhead_seconds: float) -> None:
        """Nothing."""

    def lost(self, model: str, key: str) -> None:
        """Nothing."""

    def ended(self, counts: Mapping[str, int]) -> None:
        """Nothing."""

    def delivered(self, result: str, seconds: float) -> None:
        """Nothing."""

    def turned(self, seconds: float) -> None:
        """Nothing."""


class Changes(Protocol):
    """News of ended tasks and batches from all processes, as `announce` and `settle` publish them."""

    def listen(self, heard: Callable[[str], None], stop: threading.Event) -> None:
        """Call `heard` with each id until `stop` is set; reconnects by itself. Blocks; run it in a thread."""
