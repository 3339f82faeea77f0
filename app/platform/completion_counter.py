"""What a transaction has ended, told once it is committed, whoever ended it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import TypeVar

from sqlalchemy import Connection

Told = Callable[[Mapping[str, int]], object]
T = TypeVar("T")
_tally: ContextVar[Counter[str] | None] = ContextVar("tally", default=None)


def count_ended(statuses: Iterable[str]) -> None:
    """Count tasks that the transaction of this thread ends, where somebody wants to know."""
    tally = _tally.get()
    if tally is not None:
        tally.update(statuses)


def tallied(fn: Callable[[Connection], T], tally: Counter[str]) -> Callable[[Connection], T]:
    """`fn` with its ends counted in `tally`, which is empty at the beginning of each of its runs."""

    def run(conn: Connection) -> T:
        tally.clear()
        token = _tally.set(tally)
        try:
            return fn(conn)
        finally:
            _tally.reset(token)

    return run
