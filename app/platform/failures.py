"""Foreign errors of the database, translated once, at this edge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.platform.domain.errors import DatabaseUnreachable

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
