"""Ports of the use cases on tasks: the backlog queues, notifications of changes, and counters."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from app.tasks.domain.attempt import AttemptEnd, Message, Refusal


class BacklogPublisher(Protocol):
    """The backlog queues, as the API and the feeder see them. Refuses, and never raises, when Redis is unreachable."""

    def publish(self, messages: Sequence[Message], *, feeding: bool = False) -> Mapping[str, Refusal]:
        """Put messages into their backlog queues in order; returns refused ids with the reason.

        A task that is already queued or holds a permit counts as accepted. Only with `feeding` may messages be
        published while rows wait in the database (others are refused with `behind`, to keep the order).
        """

    def forget(self, task_ids: Iterable[str]) -> None:
        """Delete queue entries of cancelled, expired or paused tasks: their messages are dropped at release."""

    def announce(self, task_ids: Iterable[str]) -> None:
        """Notify waiters in all processes that these tasks (or batches) changed."""

    def wake(self) -> None:
        """Wake the dispatcher: rows wait in the database. May be lost; the feeder also polls."""


class Meter(Protocol):
    """Counts committed events where they happen. Never raises, and takes microseconds."""

    def submitted(self, way: str, client_id: str, model: str, count: int = 1) -> None:
        """Tasks were accepted as a `single`, `chat`, `batch` or `file`. `model` empty: several."""

    def looked_up(self, *, found: bool) -> None:
        """A task was looked up in the cache."""

    def called(self, ending: AttemptEnd, overhead_seconds: float) -> None:
        """An upstream call was recorded; `overhead_seconds` passed since its release, the call itself excluded."""

    def lost(self, model: str, key: str) -> None:
        """A call vanished with its worker."""

    def ended(self, counts: Mapping[str, int]) -> None:
        """Tasks ended; `counts` is by status."""

    def delivered(self, result: str, seconds: float) -> None:
        """A callback delivery was tried: now `delivered`, `pending` (to be retried) or `failed`."""

    def turned(self, seconds: float) -> None:
        """The dispatcher completed a tick."""


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
    """Notifications of ended tasks and batches from all processes."""

    def listen(self, notify: Callable[[str], None], stop: threading.Event) -> None:
        """Call `notify` with each id until `stop` is set; reconnects by itself. Blocks; run it in a thread."""
