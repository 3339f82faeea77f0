"""Items that are ready at the same time, in one transaction."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

import structlog
from sqlalchemy import Connection

from app.domain.errors import DatabaseUnreachable

log = structlog.get_logger(__name__)

T = TypeVar("T")
R = TypeVar("R")

BUSY = 4  # items in one group that tell of many more to come
GATHER_SECONDS = 0.01  # that the next group is given then, at most


class Writer(Protocol):
    """A database, as far as it writes."""

    def write(self, fn: Callable[[Connection], R]) -> R:
        """Run `fn` in one transaction."""


class _Entry(Generic[T, R]):
    """An item, and where its caller waits: a bare lock, as a Future costs both sides ten times that."""

    __slots__ = ("_done", "_error", "_result", "item")

    def __init__(self, item: T) -> None:
        self.item = item
        self._done = threading.Lock()
        self._done.acquire()
        self._error: BaseException | None = None
        self._result: R | None = None

    def succeed(self, result: R) -> None:
        self._result = result
        self._done.release()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._done.release()

    def wait(self) -> R:
        self._done.acquire()
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # `succeed` has put it there


class GroupCommit(Generic[T, R]):
    """Collects items from many threads; one thread applies all that wait at a moment in one transaction.

    After a group of several the next may gather: a transaction costs both sides about as much for ten items as for
    one. It goes as soon as it is as large as the last one: callers that come again and again are all there then.
    Where items come one by one, nothing is waited for.
    """

    def __init__(
        self,
        database: Writer,
        apply: Callable[[Connection, Sequence[T]], Sequence[R]],
        *,
        after: Callable[[Sequence[R]], object] | None = None,
        most: int = 500,
        gather_seconds: float = GATHER_SECONDS,
    ) -> None:
        """`apply` gives back one result for each item, in their order. At most `most` items go together.

        `after` follows once they are committed, with the results, before the callers hear of it: what has to be done
        outside the database for all of them.
        """
        self._database = database
        self._apply = apply
        self._after = after
        self._most = most
        self._gather_seconds = gather_seconds
        self._changed = threading.Condition(threading.Lock())
        self._waiting: list[_Entry[T, R]] = []
        self._wanted = 1  # so many are waited for; the thread is told of no fewer
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, item: T) -> R:
        """Wait until the transaction that holds the item commits; give back its result.

        Raises what `apply` raises for it, and DatabaseUnreachable.
        """
        entry: _Entry[T, R] = _Entry(item)
        with self._changed:
            if self._closed:
                raise DatabaseUnreachable("the database was closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)
                self._thread.start()
            self._waiting.append(entry)
            if len(self._waiting) >= self._wanted:
                self._changed.notify()
        return entry.wait()

    @property
    def waiting(self) -> int:
        """How many items wait for the next transaction."""
        return len(self._waiting)

    def close(self) -> None:
        """Finish what waits, then stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        last = 0
        while group := self._next(last):
            last = len(group)
            self._commit(group)

    def _next(self, last: int) -> list[_Entry[T, R]]:
        """The next group, after one of `last`; empty at the end."""
        with self._changed:
            if last >= BUSY:
                self._wait_for(last, self._gather_seconds)
            self._wait_for(1)
            group, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            return group

    def _wait_for(self, number: int, seconds: float | None = None) -> None:
        self._wanted = number
        self._changed.wait_for(lambda: self._closed or len(self._waiting) >= number, seconds)

    def _commit(self, group: Sequence[_Entry[T, R]]) -> None:
        """Commit the group; when it fails, each item alone, so that a bad one fails alone."""
        items = [entry.item for entry in group]
        try:
            results = self._database.write(lambda connection: self._apply(connection, items))
        except DatabaseUnreachable as error:
            for entry in group:
                entry.fail(DatabaseUnreachable(str(error), retry_after=error.retry_after))
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            if len(group) == 1:
                group[0].fail(error)
            else:
                for entry in group:
                    self._commit([entry])
        else:
            self._follow(results)
            for entry, result in zip(group, results, strict=True):
                entry.succeed(result)

    def _follow(self, results: Sequence[R]) -> None:
        """What is committed is committed, whatever comes of the rest."""
        try:
            if self._after is not None:
                self._after(results)
        except Exception:
            with suppress(Exception):  # a log that cannot be written must not end this thread
                log.exception("what follows a commit met an error")
