"""What the demo shows while it works: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

LINE_SECONDS = 3.0


class Display:
    """One bar of `total` tasks, and what Flower says beside it."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._live = console.is_terminal
        self._said_at = 0.0
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bar = Progress(
            *columns, TimeElapsedColumn(), TextColumn("[cyan]{task.fields[flower]}"), console=console
        )
        self._row = self._bar.add_task("starting", total=total, flower="")

    def __enter__(self) -> Self:
        if self._live:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._bar.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        (self._bar.console if self._live else self._console).print(text, highlight=False)

    def show(self, what: str, done: int = 0, flower: str = "", *, now: bool = False) -> None:
        """Where it stands. Without a terminal: every few seconds, or `now`."""
        if self._live:
            self._bar.update(self._row, description=what, completed=done, flower=flower)
            return
        if now or time.monotonic() - self._said_at >= LINE_SECONDS:
            self._said_at = time.monotonic()
            self._console.print(f"{what}: {done}/{self._total}  {flower}".rstrip(), highlight=False)
