"""Engines for a database URL: how connections are made and configured, and what the drivers' errors mean."""

from __future__ import annotations

import select
import sqlite3
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.types.string import StrDumperUnknown
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool, StaticPool

from app.platform.domain.errors import DatabaseUnreachable


@dataclass(frozen=True, slots=True)
class DatabaseTimeouts:
    """How long the database is waited for, in seconds, before it counts as out of reach."""

    connect: int = 4  # until a new connection stands
    checkout: float = 5.0  # until the pool has a connection to spare
    lock: float = 10.0  # for a row that another transaction holds, on PostgreSQL
    statement: float = 15.0  # for one statement, on PostgreSQL
    answer: float = 18.0  # for a server that took a statement and says nothing at all
    busy: float = 30.0  # for another process's transaction, on SQLite


USUAL = DatabaseTimeouts()
_SERVER_SETTINGS = {
    "idle_in_transaction_session_timeout": "60s",
    "jit": "off",  # all statements are short; compiling them would not be
    # The heads of indexes are read in order. A bitmap would take in all of an index and sort it, which looks cheap
    # while a new backlog is in no statistics yet.
    "enable_bitmapscan": "off",
    "random_page_cost": "1.1",  # a thousand rows are looked up one by one, as suits memory and solid-state disks
}
# For connections that keep the plans of their statements. Such a plan may be made while a table is empty, and serve
# until the table's next statistics: it must look rows up by key whatever a table's size, which a planner that finds
# ten rows has no reason to. (At ten rows that costs nothing.)
_KEPT_PLANS = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}
_SOCKET = {  # a peer that vanished is noticed within about 15 s
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA secure_delete=ON",  # what is erased is overwritten in the file, not only marked as free
    "PRAGMA temp_store=MEMORY",
    "PRAGMA cache_size=-32000",  # 32 MB: a backlog's indexes
    "PRAGMA journal_size_limit=67108864",
)


def parse_url(url: str) -> URL:
    """Understand `sqlite:///path`, `postgresql+psycopg://`, `postgresql://` and `postgres://`.

    Raises ValueError for anything else.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:  # its words would repeat the URL, and with it a password
        raise ValueError(_UNDERSTOOD) from None
    if parsed.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername in ("sqlite", "sqlite+pysqlite") and parsed.database not in (None, "", ":memory:"):
        return parsed.set(drivername="sqlite+pysqlite")
    raise ValueError(f"{_UNDERSTOOD}, not {parsed.render_as_string()}")


_UNDERSTOOD = "a database URL is sqlite:////path/to/file or postgresql://user:password@host/name"


class _Connection(psycopg.Connection[Any]):
    """A connection that gives up on a server which took a statement and never answers.

    Neither `statement_timeout` (the frozen server's own) nor TCP (its kernel still answers) would notice.
    """

    answer_seconds = USUAL.answer

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return super().wait(_limited(gen, self.answer_seconds), *args, **kwargs)
        except _SilenceError as silence:
            self.pgconn.finish()
            raise psycopg.OperationalError("the server does not answer") from silence


class _CleanText(StrDumperUnknown):
    """Texts without NUL, which PostgreSQL cannot store: a condition on such a text finds nothing, as on SQLite."""

    def dump(self, obj: str) -> Buffer | None:
        return super().dump(obj.replace("\x00", "\ufffd") if "\x00" in obj else obj)


class _SilenceError(Exception):
    """The time for an answer is over."""


def _limited(gen: Generator[Any, Any, Any], seconds: float) -> Generator[Any, Any, Any]:
    """Pass everything between psycopg's wait loop and `gen`; look at the time whenever nothing came."""
    until = monotonic() + seconds
    try:
        state = next(gen)
        while True:
            ready = yield state
            if not ready and monotonic() > until:
                gen.close()
                raise _SilenceError
            state = gen.send(ready)
    except StopIteration as end:
        return end.value


def postgresql_engine(
    url: URL, pool_size: int, limits: DatabaseTimeouts = USUAL, *, keeps_plans: bool = False
) -> Engine:
    """Make an engine of a PostgreSQL database.

    `keeps_plans`: for single statements that come many times a second and look rows up by key, each its own
    transaction. Parsing and planning one costs the server more than carrying it out. On all other connections psycopg
    lets go of its plans at each ROLLBACK, with which reads end: none gets old there.
    """
    # Nothing is left to roll back of single statements, and asking whether there is costs as much as a third of one.
    alone: dict[str, Any] = {
        "isolation_level": "AUTOCOMMIT",
        "skip_autocommit_rollback": True,
        "pool_reset_on_return": None,
    }
    engine = create_engine(
        url,
        **(alone if keeps_plans else {}),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=limits.checkout,
        pool_use_lifo=True,
        hide_parameters=True,
        connect_args=_connect_arguments(url, limits, _KEPT_PLANS if keeps_plans else {}),
    )

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, args: Any, kwargs: Any) -> Any:
        made = _Connection.connect(*args, **kwargs)
        made.answer_seconds = limits.answer
        made.adapters.register_dumper(str, _CleanText)
        return made

    if keeps_plans:
        event.listen(engine, "checkout", _refuse_dead)
    return engine


def _refuse_dead(connection: _Connection, _record: Any, _proxy: Any) -> None:
    """Let the pool take another connection when the server has said something, or hung up, while this one lay idle.

    A single statement that is its own transaction must not be sent to find that out: it could not be repeated.
    """
    heard = select.poll()
    heard.register(connection.fileno(), select.POLLIN)
    if heard.poll(0):
        raise DisconnectionError


def _connect_arguments(url: URL, limits: DatabaseTimeouts, more: Mapping[str, str]) -> dict[str, Any]:
    """Ours, unless the URL says otherwise."""
    times = {"statement_timeout": limits.statement, "lock_timeout": limits.lock}
    settings = {
        **{name: f"{seconds * 1000:.0f}ms" for name, seconds in times.items()},
        **_SERVER_SETTINGS,
        **more,
    }
    options = [*(f"-c {name}={value}" for name, value in settings.items()), str(url.query.get("options", ""))]
    socket = {"connect_timeout": limits.connect, **_SOCKET}
    ours = {name: value for name, value in socket.items() if name not in url.query}
    return {**ours, "options": " ".join(options).strip()}


def sqlite_writer(url: URL, limits: DatabaseTimeouts = USUAL) -> Engine:
    """Make the engine of the one writing connection, which belongs to one thread."""
    arguments = _file_arguments(limits)
    engine = create_engine(url, poolclass=StaticPool, hide_parameters=True, connect_args=arguments)
    _prepare(engine, "BEGIN IMMEDIATE", _PRAGMAS)
    return engine


def sqlite_readers(url: URL, pool_size: int, limits: DatabaseTimeouts = USUAL) -> Engine:
    """Make the engine of the reading connections, each with a snapshot of its own."""
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=limits.checkout,
        hide_parameters=True,
        connect_args=_file_arguments(limits),
    )
    _prepare(engine, "BEGIN", (*_PRAGMAS[1:], "PRAGMA query_only=ON"))
    return engine


def _file_arguments(limits: DatabaseTimeouts) -> dict[str, Any]:
    """Transactions are begun by us alone (`isolation_level` None keeps the driver out of it)."""
    return {"isolation_level": None, "timeout": limits.busy, "check_same_thread": False}


def _prepare(engine: Engine, begin: str, pragmas: tuple[str, ...]) -> None:
    @event.listens_for(engine, "connect")
    def set_pragmas(connection: sqlite3.Connection, _record: Any) -> None:
        for pragma in pragmas:
            connection.execute(pragma)

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Connection) -> None:
        connection.exec_driver_sql(begin)


# SQLite's primary result codes: busy, locked; read-only, I/O error, corrupt, full, cannot open, protocol,
# not a database.
_SQLITE_BUSY = frozenset({5, 6})
_SQLITE_UNREACHABLE = _SQLITE_BUSY | {8, 10, 11, 13, 14, 15, 26}
# PostgreSQL's classes: connection, resources (full disk, too many connections), operator intervention
# (shutdown, statement timeout), system error. Codes: read-only, transaction and lock timeouts.
_POSTGRESQL_UNREACHABLE = ("08", "53", "57", "58", "25006", "25P03", "25P04", "55P03")
_POSTGRESQL_CONFLICT = ("40001", "40P01")  # serialization, deadlock


def connection_lost(error: BaseException) -> bool:
    """Whether the connection turned out dead; what was not yet committed is rolled back."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def in_the_way(error: BaseException) -> bool:
    """Whether another transaction was in the way: this one was undone, and can run when the other is through."""
    return _sqlstate(error) in _POSTGRESQL_CONFLICT


def may_be_repeated(error: BaseException) -> bool:
    """Whether the transaction was rolled back for no fault of its own, so that it can simply run again."""
    return connection_lost(error) or in_the_way(error)


def unreachable(error: BaseException) -> bool:
    """Whether the error means that the database cannot serve, rather than that a statement is wrong."""
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if (code := _sqlite_code(error)) is not None:
        return code in _SQLITE_UNREACHABLE
    state = _sqlstate(error)
    if state is None:  # never got as far as the server, or was cut off
        return error.connection_invalidated or type(error.orig).__name__ in _CUT_OFF
    return error.connection_invalidated or state.startswith(_POSTGRESQL_UNREACHABLE + _POSTGRESQL_CONFLICT)


_CUT_OFF = frozenset({"OperationalError", "ConnectionTimeout", "InterfaceError"})


def busy(error: BaseException) -> bool:
    """Whether SQLite gave up waiting for another process's transaction."""
    return isinstance(error, DBAPIError) and _sqlite_code(error) in _SQLITE_BUSY


@contextmanager
def translated() -> Iterator[None]:
    """Raise DatabaseUnreachable in place of the driver's and the pool's own words for it."""
    try:
        yield
    except (DBAPIError, PoolTimeout) as error:
        if unreachable(error):
            raise DatabaseUnreachable(_words(error)) from error
        raise


def _words(error: Exception) -> str:
    """Say what happened, without the statement and its parameters (a prompt may be among them)."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return f"the database cannot be reached: {str(cause).partition(chr(10))[0]}"


def _sqlite_code(error: BaseException) -> int | None:
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None


def _sqlstate(error: BaseException) -> str | None:
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    return state if isinstance(state, str) else None
