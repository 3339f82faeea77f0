"""Read tasks; each client sees only its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection

from app.platform.database import Database
from app.platform.domain.errors import Invalid, NotFound
from app.platform.domain.names import is_id
from app.platform.encryption import leniently
from app.tasks.domain.rows import AttemptRow, DeliveryAttempt, TaskRow
from app.tasks.store import tasks
from app.tasks.store.tasks import deliveries_of

_MARKED_AT_ONCE = 101  # rows


@dataclass(frozen=True, slots=True)
class TaskPage:
    """One page of a list."""

    rows: list[TaskRow]
    has_more: bool


class ReadTasks:
    """Read tasks, their upstream calls and callback deliveries. Every method raises DatabaseUnreachable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def task(self, client_id: str, task_id: str) -> TaskRow:
        """One task. Raises NotFound."""
        return self._database.glance(lambda conn: _mine(conn, client_id, task_id))

    def page(
        self,
        client_id: str,
        *,
        status: str | None,
        batch_id: str | None,
        after: str | None,
        limit: int,
        reason: str | None = None,
    ) -> TaskPage:
        """Tasks, newest first, after the one with the id `after`; `reason` is an error code.

        Raises Invalid for a bad cursor.
        """
        if batch_id is not None and not is_id("batch", batch_id):
            raise Invalid("batch_id: not the id of a batch", param="batch_id", code="invalid_value")

        def read(conn: Connection) -> list[TaskRow]:
            after_seq = None if after is None else _cursor(conn, client_id, after)
            with leniently():
                return tasks.list_tasks(conn, client_id, status, batch_id, after_seq, limit + 1, reason)

        rows = self._database.read(read)
        return TaskPage(rows[:limit], has_more=len(rows) > limit)

    def marked(
        self,
        client_id: str,
        custom_id: str,
        *,
        model: str | None,
        metadata: Mapping[str, str],
        after: str | None,
        ascending: bool,
        limit: int,
    ) -> tuple[list[TaskRow], bool]:
        """A page of succeeded single tasks with this custom id and their results, and whether there are more.

        Raises Invalid for a bad cursor.
        """

        def read(conn: Connection) -> list[TaskRow]:
            place = None if after is None else _cursor(conn, client_id, after)
            found: list[TaskRow] = []
            while len(found) <= limit:
                ids = tasks.marked_ids(
                    conn, client_id, custom_id, model, place, _MARKED_AT_ONCE, ascending=ascending
                )
                rows = [row for name, _ in ids if (row := tasks.get_task(conn, client_id, name))]
                found += [row for row in rows if _has(row, metadata)]
                if len(ids) < _MARKED_AT_ONCE:
                    break
                place = ids[-1][1]
            return found

        with leniently():
            rows = self._database.read(read)
        return rows[:limit], len(rows) > limit

    def set_metadata(self, client_id: str, task_id: str, metadata: str | None) -> None:
        """Replace a task's metadata, JSON text."""
        self._database.write(lambda conn: tasks.set_metadata(conn, client_id, task_id, metadata))

    def attempts(self, client_id: str, task_id: str) -> list[AttemptRow]:
        """The upstream calls for a task, in order. Raises NotFound."""

        def read(conn: Connection) -> list[AttemptRow]:
            _mine(conn, client_id, task_id)
            return tasks.attempts_of(conn, task_id)

        return self._database.read(read)

    def deliveries(self, client_id: str, task_id: str) -> list[DeliveryAttempt]:
        """The delivery attempts of a task's callbacks, in order. Raises NotFound."""

        def read(conn: Connection) -> list[DeliveryAttempt]:
            _mine(conn, client_id, task_id)
            return deliveries_of(conn, task_id)

        return self._database.read(read)


def _has(row: TaskRow, metadata: Mapping[str, str]) -> bool:
    return not metadata or metadata.items() <= json.loads(row.metadata or "{}").items()


def _mine(conn: Connection, client_id: str, task_id: str) -> TaskRow:
    """The row, if it is this client's; other clients' tasks are reported like unknown ones."""
    row = tasks.get_task(conn, client_id, task_id) if is_id("task", task_id) else None
    if row is None:
        raise NotFound(f"no task {task_id[:80]!r}", param="task_id", code="task_not_found")
    return row


def _cursor(conn: Connection, client_id: str, after: str) -> int:
    row = tasks.get_task(conn, client_id, after) if is_id("task", after) else None
    if row is None:
        raise Invalid("after: not the id of a task of yours", param="after", code="invalid_cursor")
    return row.seq
