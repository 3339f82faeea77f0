"""The one thread that writes to a SQLite database for this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from app.platform.background_loop import END, BackgroundLoop
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.engines import busy, translated, unreachable

R = TypeVar("R")
_MOST = 200  # writes per transaction, so that other processes can write in between
_TRIES = 2  # each waits the busy timeout


class _Job:
    """One caller's statements, and where its answer goes."""

    __slots__ = ("fn", "future", "value")

    def __init__(self, fn: Callable[[Connection], Any]) -> None:
        self.fn = fn
        self.future: Future[Any] = Future()
        self.value: Any = None


class SingleWriter:
    """Takes everything that waits into one transaction, so that concurrent writers share one fsync."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._starting = threading.Lock()
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._loop: BackgroundLoop | None = None
        self._process = 0
        self._closed = False

    def write(self, fn: Callable[[Connection], R]) -> R:
        """Run `fn` in a transaction and wait for its commit. Whatever `fn` raises is raised here."""
        job = _Job(fn)
        with self._starting:
            self._start()
            self._queue.put(job)
        value: R = job.future.result()
        return value

    @property
    def writing(self) -> bool:
        """Whether this thread is the one that writes."""
        return self._loop is not None and self._loop.is_current

    def close(self) -> None:
        """Finish what waits, then stop."""
        with self._starting:
            self._closed = True
            self._queue.put(None)
        if self._loop is not None and self._process == os.getpid():
            self._loop.join(None)
        self._engine.dispose()

    def _start(self) -> None:
        """Start the thread on first use, and again in a forked child, where it does not live on."""
        if self._closed:
            raise DatabaseUnreachable("the database was closed")
        if self.writing:
            raise RuntimeError("a write inside a write: pass its connection on instead")
        if self._process != os.getpid():
            self._process = os.getpid()
            self._queue = SimpleQueue()
            self._engine.dispose(close=False)
            self._loop = BackgroundLoop("database-writer", self._next)
            self._loop.start()

    def _next(self) -> object:
        """Serve all that waits, once something does."""
        job = self._queue.get()
        if job is None:
            return END
        jobs = [job]
        stop = self._take_waiting(jobs)
        self._serve(jobs)
        return END if stop else None

    def _take_waiting(self, jobs: list[_Job]) -> bool:
        """Add what waits; whether the end was among it."""
        try:
            while len(jobs) < _MOST:
                if (job := self._queue.get_nowait()) is None:
                    return True
                jobs.append(job)
        except Empty:
            pass
        return False

    def _serve(self, jobs: Sequence[_Job]) -> None:
        try:
            self._commit_together(jobs)
        except BaseException as error:  # noqa: BLE001 - handed to the callers
            for job in jobs:
                if not job.future.done():
                    job.future.set_exception(_own(error))
            return
        for job in jobs:
            if not job.future.done():
                job.future.set_result(job.value)

    def _commit_together(self, jobs: Sequence[_Job]) -> None:
        with translated():
            for last in range(_TRIES):
                try:
                    with self._engine.begin() as connection:
                        for job in jobs:
                            _attempt(job, connection)
                    return
                except Exception as error:
                    if last == _TRIES - 1 or not busy(error):
                        raise


def _attempt(job: _Job, connection: Connection) -> None:
    """Run one job in a savepoint: when it fails, it fails alone.

    A database out of reach fails all: SQLite has undone the whole transaction then, the savepoint with it.
    """
    if job.future.done():
        return
    savepoint = connection.begin_nested()
    try:
        job.value = job.fn(connection)
        savepoint.commit()
    except Exception as error:
        if unreachable(error):
            raise
        savepoint.rollback()
        job.future.set_exception(error)


def _own(error: BaseException) -> BaseException:
    """Give each waiter an exception of its own: threads raising one object would muddle its traceback."""
    if isinstance(error, DatabaseUnreachable):
        return DatabaseUnreachable(str(error), retry_after=error.retry_after)
    return error
