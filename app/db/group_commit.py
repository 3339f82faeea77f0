"""Items that are ready at the same time, in one transaction."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Generic, Protocol, TypeVar

from sqlalchemy import Connection

from app.domain.errors import DatabaseUnreachable

T = TypeVar("T")
R = TypeVar("R")

BUSY = 4  # items in one group that tell of many more to come
GATHER_SECONDS = 0.01  # that the next group is given then


class Writer(Protocol):
    """A database, as far as it writes."""

    def write(self, fn: Callable[[Connection], R]) -> R:
        """Run `fn` in one transaction."""


class GroupCommit(Generic[T, R]):
    """Collects items from many threads; one thread applies all that wait at a moment in one transaction.

    After a group of several it waits a moment for the next to gather: a transaction costs both sides about as much for
    ten items as for one. Where items come one by one, nothing is waited for.
    """

    def __init__(
        self,
        database: Writer,
        apply: Callable[[Connection, Sequence[T]], Sequence[R]],
        *,
        most: int = 500,
        gather_seconds: float = GATHER_SECONDS,
    ) -> None:
        """`apply` gives back one result for each item, in their order. At most `most` items go together."""
        self._database = database
        self._apply = apply
        self._most = most
        self._gather_seconds = gather_seconds
        self._closing = threading.Event()
        self._queue: SimpleQueue[tuple[T, Future[R]] | None] = SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, item: T) -> R:
        """Wait until the transaction that holds the item commits; give back its result.

        Raises what `apply` raises for it, and DatabaseUnreachable.
        """
        future: Future[R] = Future()
        with self._starting:
            if self._closed:
                raise DatabaseUnreachable("the database was closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)
                self._thread.start()
            self._queue.put((item, future))
        return future.result()

    @property
    def waiting(self) -> int:
        """About how many items wait for the next transaction."""
        return self._queue.qsize()

    def close(self) -> None:
        """Finish what waits, then stop."""
        with self._starting:
            self._closed = True
            self._closing.set()
            self._queue.put(None)
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            group = [first]
            stop = self._take_waiting(group)
            self._commit(group)
            if stop:
                return
            if len(group) >= BUSY:
                self._closing.wait(self._gather_seconds)

    def _take_waiting(self, group: list[tuple[T, Future[R]]]) -> bool:
        """Add what waits; whether the end was among it."""
        try:
            while len(group) < self._most:
                if (entry := self._queue.get_nowait()) is None:
                    return True
                group.append(entry)
        except Empty:
            pass
        return False

    def _commit(self, group: Sequence[tuple[T, Future[R]]]) -> None:
        """Commit the group; when it fails, each item alone, so that a bad one fails alone."""
        items = [item for item, _ in group]
        try:
            results = self._database.write(lambda connection: self._apply(connection, items))
        except DatabaseUnreachable as error:
            for _, future in group:
                future.set_exception(DatabaseUnreachable(str(error), retry_after=error.retry_after))
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            if len(group) == 1:
                group[0][1].set_exception(error)
            else:
                for entry in group:
                    self._commit([entry])
        else:
            for (_, future), result in zip(group, results, strict=True):
                future.set_result(result)
