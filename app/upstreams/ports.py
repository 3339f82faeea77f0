"""Streamed answers on their way from a worker to whoever waits for them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from app.platform.domain.errors import RedisUnreachable
from app.upstreams.domain.stream_piece import Piece


class StreamWriter(Protocol):
    """Where a worker passes streamed answers on, to whoever waits for them."""

    def send(self, task_id: str, piece: Piece) -> None:
        """Pass a piece on. What cannot be is lost, and found missing by its number. Never raises."""


class NoStreams:
    """Nobody waits."""

    def send(self, task_id: str, piece: Piece) -> None:
        """Passes nothing on."""


class Subscription(Protocol):
    """One listener at the stream of one task."""

    def next(self, seconds: float) -> Piece | None:
        """The next piece; None when none came within so many seconds. Raises RedisUnreachable."""


class StreamReader(Protocol):
    """Where streamed answers come from."""

    def listen(self, task_id: str) -> AbstractContextManager[Subscription]:
        """Listen, from now on, to what is passed on of a task. Raises RedisUnreachable."""


class NoStreamReader:
    """Nothing is passed on: answers come whole."""

    def listen(self, task_id: str) -> AbstractContextManager[Subscription]:
        """Raises RedisUnreachable."""
        raise RedisUnreachable(f"nobody passes on what comes of {task_id}")
