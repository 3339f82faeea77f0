"""Group commit: items that are ready at the same time share one transaction."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

import structlog

from app.platform.domain.errors import DatabaseUnreachable

log = structlog.get_logger(__name__)

T = TypeVar("T")
R = TypeVar("R")

BUSY = 4  # items in one group that suggest many more to come
GATHER_SECONDS = 0.01  # that the next group is given then, at most


class _Entry(Generic[T, R]):
    """An item, and where its caller waits: a bare lock, as a Future costs both sides ten times that."""

    __slots__ = ("_done", "_error", "_result", "_woken", "item")

    def __init__(self, item: T) -> None:
        self.item = item
        self._woken = threading.Lock()
        self._woken.acquire()
        self._done = False
        self._error: BaseException | None = None
        self._result: R | None = None

    def succeed(self, result: R) -> None:
        self._result = result
        self._end()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._end()

    def wake(self) -> None:
        """Let the caller go on, though its item is not through: it is to commit."""
        self._woken.release()

    def wait(self) -> bool:
        """Wait until the item is through; False when its caller is to commit now."""
        self._woken.acquire()
        return self._done

    def result(self) -> R:
        """What came of the item, once it is through."""
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # `succeed` has put it there

    def _end(self) -> None:
        self._done = True
        self._woken.release()


class GroupCommit(Generic[T, R]):
    """Collects items from many threads; one of these commits all that wait at a moment together.

    Who comes while nobody commits does so at once, in his own thread; who comes meanwhile waits, and the first of those
    is woken to commit the next group. So an item that comes alone costs no change of threads.

    After a group of several the next may gather: a transaction costs both sides about as much for ten items as for
    one. It goes as soon as it is as large as the last one: callers that come again and again are all there then.
    Where items come one by one, nothing is waited for.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[T]], Sequence[R]],
        *,
        after: Callable[[Sequence[R]], object] | None = None,
        most: int = 500,
        gather_seconds: float = GATHER_SECONDS,
    ) -> None:
        """`commit` stores items for good and returns one result for each, in their order; at most `most` at once.

        `after` follows once they are committed, with the results, before the callers hear of it: what has to be done
        outside the database for all of them.
        """
        self._store = commit
        self._after = after
        self._most = most
        self._gather_seconds = gather_seconds
        self._changed = threading.Condition(threading.Lock())
        self._waiting: list[_Entry[T, R]] = []
        self._wanted = 1  # how many are gathered before a write
        self._last = 0  # items in the last group
        self._committing = False  # whether some caller does
        self._closed = False

    def submit(self, item: T) -> R:
        """Wait until the transaction that holds the item commits; return its result.

        Raises what `commit` raises for it, and DatabaseUnreachable.
        """
        entry: _Entry[T, R] = _Entry(item)
        if self._join(entry):
            self._commit_next()
        while not entry.wait():
            self._commit_next()
        return entry.result()

    @property
    def waiting(self) -> int:
        """How many items wait for the next transaction."""
        return len(self._waiting)

    def close(self) -> None:
        """Take nothing more, and finish what waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._committing)

    def _join(self, entry: _Entry[T, R]) -> bool:
        """Take an item in; whether its caller is to commit."""
        with self._changed:
            if self._closed:
                raise DatabaseUnreachable("the database was closed")
            self._waiting.append(entry)
            if not self._committing:
                self._committing = True
                return True
            if len(self._waiting) >= self._wanted:
                self._changed.notify_all()
            return False

    def _commit_next(self) -> None:
        """Commit one group, and let the first of those who came meanwhile commit the next."""
        taken = 0
        try:
            group = self._gather()
            taken = len(group)
            self._commit(group)
        finally:
            self._hand_over(taken)

    def _gather(self) -> Sequence[_Entry[T, R]]:
        with self._changed:
            if self._last >= BUSY:
                self._wanted = self._last
                self._changed.wait_for(self._are_all_there, self._gather_seconds)
            group, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            return group

    def _are_all_there(self) -> bool:
        return self._closed or len(self._waiting) >= self._wanted

    def _hand_over(self, last: int) -> None:
        with self._changed:
            self._last = last
            if self._waiting:
                self._waiting[0].wake()
                return
            self._committing = False
            if self._closed:
                self._changed.notify_all()

    def _commit(self, group: Sequence[_Entry[T, R]]) -> None:
        """Commit the group; when it fails, each item alone, so that a bad one fails alone."""
        try:
            results = self._store([entry.item for entry in group])
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
            with suppress(Exception):  # a log that cannot be written must not end the committing
                log.exception("what follows a commit met an error")
