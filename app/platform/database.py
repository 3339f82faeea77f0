"""The database: transactions that read or write, on SQLite (one thread writes) or PostgreSQL."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine, text
from sqlalchemy.pool import QueuePool

from app.platform.background_loop import END, BackgroundLoop
from app.platform.dialects import changes_many_tables
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.engines import (
    USUAL,
    DatabaseTimeouts,
    busy,
    connection_lost,
    in_the_way,
    may_be_repeated,
    parse_url,
    postgresql_engine,
    sqlite_readers,
    sqlite_writer,
    translated,
    unreachable,
)
from app.platform.group_commit import GroupCommit

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
    """Takes everything that waits into one transaction, so that concurrent writers share one fsync.

    All threads put into the queue, its own takes out of it and has the connection; `_starting` guards the other fields.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._starting = threading.Lock()
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._loop: BackgroundLoop | None = None
        self._process = 0
        self._closed = False

    def write(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` in a transaction and wait for its commit. Whatever `fn` raises is raised here."""
        job = _Job(fn)
        with self._starting:
            self._start()
            self._queue.put(job)
        value: T = job.future.result()
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


T = TypeVar("T")

OnEnded = Callable[[Mapping[str, int]], object]

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


__all__ = ["Database", "DatabaseTimeouts", "GroupCommit"]


class _Writer(Protocol):
    def write(self, fn: Callable[[Connection], T]) -> T: ...
    def close(self) -> None: ...


class Database:
    """A SQLite file or a PostgreSQL database. Connections are made on first use; many threads may share it.

    Functions given to `read` and `write` may run twice: they act on the database alone.
    """

    def __init__(
        self, url: str, *, pool_size: int = 20, limits: DatabaseTimeouts = USUAL, ended: OnEnded | None = None
    ) -> None:
        """`pool_size` bounds the connections of this process; `ended` hears how many tasks came to which end.

        Raises ValueError for a URL of another kind.
        """
        self._ended = ended
        parsed = parse_url(url)
        self.dialect = parsed.get_backend_name()
        self._writer: _Writer
        self._single: _Writer
        if self.dialect == "sqlite":
            self._readers = self._glances = sqlite_readers(parsed, pool_size, limits)
            self._writer = self._single = SingleWriter(sqlite_writer(parsed, limits))
        else:
            half = max(1, pool_size // 2)
            engine = postgresql_engine(parsed, max(1, pool_size - half), limits)
            self._readers = engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            self._glances = postgresql_engine(parsed, half, limits, keeps_plans=True)
            self._writer = _PooledWriter(engine)
            self._single = _PooledWriter(self._glances, commits=False)

    @property
    def changes_many_tables(self) -> bool:
        """Whether one statement can change several tables."""
        return changes_many_tables(self._readers)

    def read(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` on one snapshot of the database. Raises DatabaseUnreachable."""
        return _twice(self._readers, fn)

    def glance(self, fn: Callable[[Connection], T]) -> T:
        """The same for a single statement that looks rows up by key, and whose snapshot is its own.

        PostgreSQL is asked once, not thrice, and keeps its plan.
        """
        return _twice(self._glances, fn)

    def write(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` in one transaction and commit it.

        Raises DatabaseUnreachable: nothing was changed or, when cut off during the commit, perhaps all of it.
        """
        return self._write(self._writer, fn)

    def write_single(self, fn: Callable[[Connection], T]) -> T:
        """The same for one statement that looks rows up by key, and is its own transaction.

        PostgreSQL is asked once, not thrice, and keeps its plan.
        """
        return self._write(self._single, fn)

    def _write(self, writer: _Writer, fn: Callable[[Connection], T]) -> T:
        if self._ended is None:
            return writer.write(fn)
        tally: Counter[str] = Counter()
        result = writer.write(tallied(fn, tally))
        if tally:
            self._ended(tally)
        return result

    @property
    def writing(self) -> bool:
        """Whether this thread is inside a write beside which no other may begin: SQLite has one writer."""
        return isinstance(self._writer, SingleWriter) and self._writer.writing

    def connections(self) -> tuple[int, int]:
        """How many of the pools' connections are in use, and how many there may be."""
        pools = {engine.pool for engine in (self._readers, self._glances)}
        kept = [pool for pool in pools if isinstance(pool, QueuePool)]
        return sum(pool.checkedout() for pool in kept), sum(pool.size() for pool in kept)

    def ping(self) -> None:
        """Return when the database answers. Raises DatabaseUnreachable."""
        question = "PRAGMA schema_version" if self.dialect == "sqlite" else "SELECT 1"
        self.read(lambda connection: connection.execute(text(question)).scalar_one())

    def empty_log(self) -> None:
        """Move SQLite's write-ahead log into the file and empty it: it may still hold what was erased.

        Does nothing while readers are in the way, or on PostgreSQL.
        """
        if self.dialect != "sqlite":
            return
        connection = self._readers.raw_connection()
        try:
            connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()

    def close(self) -> None:
        """Finish the writes that wait and close every connection."""
        self._writer.close()
        self._single.close()
        self._readers.dispose()


def _twice(engine: Engine, fn: Callable[[Connection], T]) -> T:
    """Run `fn`; once more if the connection was dead."""
    with translated():
        try:
            return _once(engine, fn)
        except Exception as error:
            if not may_be_repeated(error):
                raise
        return _once(engine, fn)


def _once(engine: Engine, fn: Callable[[Connection], T]) -> T:
    with engine.connect() as connection:
        return fn(connection)


_PAUSES = (0.02, 0.1, 0.5)  # seconds at most before trying again


class _PooledWriter:
    """Writes on PostgreSQL: each in a pooled connection, at READ COMMITTED."""

    def __init__(self, engine: Engine, *, commits: bool = True) -> None:
        """`commits`: False where each statement is its own transaction."""
        self._engine = engine
        self._commits = commits

    def write(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` and commit; once more if the connection was dead, a few times if others were in the way.

        Who was undone may meet the same other again, as a lock goes to whoever is awake first: hence the pauses.
        """
        with translated():
            for pause in _PAUSES:
                attempt = _Attempt(self._engine, self._commits)
                try:
                    return attempt.run(fn)
                except Exception as error:
                    in_doubt = attempt.committing and connection_lost(error)
                    if in_doubt or not may_be_repeated(error):
                        raise
                    if not in_the_way(error):
                        break
                time.sleep(pause * random.random())
            return _Attempt(self._engine, self._commits).run(fn)

    def close(self) -> None:
        self._engine.dispose()


class _Attempt:
    """One try at a transaction, which knows how far it came."""

    def __init__(self, engine: Engine, commits: bool) -> None:
        self._engine = engine
        self._commits = commits
        self.committing = False

    def run(self, fn: Callable[[Connection], T]) -> T:
        with self._engine.connect() as connection:
            self.committing = not self._commits
            result = fn(connection)
            if self._commits:
                self.committing = True
                connection.commit()
            return result
