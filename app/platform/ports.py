"""Time and traces: the interfaces that every room uses, the real clock, and a tracer that records nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Clock(Protocol):
    """Time, as the process sees it."""

    def now(self) -> float:
        """Unix seconds."""

    def monotonic(self) -> float:
        """Seconds since some start; never steps."""


Value = str | int | float | bool | None


class Span(Protocol):
    """Something that is being done to a task, in a trace. Nothing of a prompt or a secret goes into one."""

    @property
    def traceparent(self) -> str | None:
        """Where what follows from it hangs on, as W3C Trace Context writes it; None: nobody traces."""

    def set(self, **attributes: Value) -> None:
        """Add what is known by now; None is left out."""


class Tracer(Protocol):
    """Records traces."""

    @property
    def enabled(self) -> bool:
        """Whether traces are recorded."""

    def span(self, name: str, parent: str | None = None, **attributes: Value) -> AbstractContextManager[Span]:
        """While it lasts; under `parent`, else under what this thread is doing. Never raises of its own."""

    def past(self, name: str, parent: str, began_at: float, ended_at: float, **attributes: Value) -> None:
        """What was done between two instants, in Unix seconds."""

    def follow(self, parent: str) -> Callable[[], None]:
        """Let what this thread does hang on `parent`, until the returned function is called."""

    def close(self) -> None:
        """Send what is left."""


class _NoSpan:
    traceparent = None

    def set(self, **attributes: Value) -> None:
        """Does nothing."""


_NOTHING_AROUND: AbstractContextManager[Span] = nullcontext(_NoSpan())  # one serves all: it keeps nothing


class NoTracer:
    """Keeps nothing."""

    enabled = False

    def span(self, name: str, parent: str | None = None, **attributes: Value) -> AbstractContextManager[Span]:  # noqa: ARG002
        """Nothing around it."""
        return _NOTHING_AROUND

    def past(self, name: str, parent: str, began_at: float, ended_at: float, **attributes: Value) -> None:
        """Keeps nothing."""

    def follow(self, parent: str) -> Callable[[], None]:  # noqa: ARG002
        """Follows nothing."""
        return lambda: None

    def close(self) -> None:
        """Nothing is left."""


class SystemClock:
    """Wall time for what people read, monotonic time for what is measured."""

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some start; never steps."""
        return time.monotonic()
