"""Whatever happens in whatever order, tasks end once and batches add up.

A machine submits, claims, ends, loses, cancels and expires at random, late and repeated endings included, and after
each step compares the database with itself and with what it remembers.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from app.composition.schema import metadata
from app.dispatching.store import expire, lose
from app.execution.store.workers import beat
from app.platform.database import Database
from app.tasks.domain.attempt import Claimed
from app.tasks.domain.task import ENDS, Hold, Status
from app.tasks.store.feeding import promote_due
from app.tasks.store.tables import attempt, batch, callback, task
from app.tasks.store.transitions import cancel_batch, cancel_task
from tests.tasks.rows import NOW, add, add_batch, again, failure, new_task, record, success, take, unsent

WAYS = {"success": success, "failure": failure, "again": again, "unsent": unsent}
WORKERS = st.sampled_from(["w1", "w2", "w3"])
COUNTED = {
    "completed": [Status.SUCCEEDED],
    "failed": [Status.FAILED, Status.EXPIRED],
    "cancelled": [Status.CANCELLED],
}


class Life(RuleBasedStateMachine):
    """One database, a clock that goes on, and everything that may happen to tasks."""

    database: Database  # set by the test

    tasks = Bundle("tasks")
    batches = Bundle("batches")
    claims = Bundle("claims")  # in some worker's hands, or once were

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.release = 0
        self.ends: dict[str, str] = {}
        self.database.write(
            lambda conn: [conn.execute(table.delete()) for table in reversed(metadata.sorted_tables)]
        )

    @rule(target=tasks, lifetime=st.sampled_from([5.0, 1000.0]))
    def submit(self, lifetime: float) -> str:
        row = new_task(callback_url="https://a.example/", expires_at=self.now + lifetime)
        add(self.database, row)
        return row.id

    @rule(
        target=tasks,
        size=st.integers(0, 6),
        batch_size=st.none() | st.integers(1, 3),
        lifetime=st.sampled_from([5.0, 1000.0]),
    )
    def submit_batch(self, size: int, batch_size: int | None, lifetime: float) -> Any:
        name = f"batch_{self.now}"
        every = {"callback_url": "https://a.example/", "expires_at": self.now + lifetime}
        self.now += 1
        ids = add_batch(
            self.database,
            size,
            name,
            batch_size=batch_size,
            callback_url="https://a.example/b",
            expires_at=self.now + lifetime,
            task=every,
        )
        return multiple(*ids)

    @rule(target=claims, wanted=st.lists(tasks, min_size=1, max_size=4), worker=WORKERS)
    def claim(self, wanted: list[str], worker: str) -> Any:
        self.release += 1
        return multiple(
            *take(self.database, *wanted, worker=worker, release=self.release, at=self.now).values()
        )

    @rule(ended=st.lists(st.tuples(claims, st.sampled_from(sorted(WAYS))), min_size=1, max_size=4))
    def end(self, ended: list[tuple[Claimed, str]]) -> None:
        """Some of these are late, were recorded before, or are of rows that others run."""
        record(self.database, *(WAYS[way](claimed, self.now) for claimed, way in ended))

    @rule(claimed=consumes(claims), way=st.sampled_from(sorted(WAYS)))
    def end_one(self, claimed: Claimed, way: str) -> None:
        record(self.database, WAYS[way](claimed, self.now))

    @rule(name=tasks)
    def cancel(self, name: str) -> None:
        self.database.write(lambda conn: cancel_task(conn, "alice", name, self.now))

    @rule(name=tasks)
    def cancel_its_batch(self, name: str) -> None:
        row = next(row for row in self._rows() if row.id == name)
        if row.batch_id is not None:
            self.database.write(lambda conn: cancel_batch(conn, "alice", row.batch_id, self.now))

    @rule(worker=WORKERS)
    def lose(self, worker: str) -> None:
        self.database.write(lambda conn: lose(conn, worker, self.now, 3))

    @rule(worker=WORKERS)
    def beat_with_nothing_in_memory(self, worker: str) -> None:
        self.database.write(lambda conn: beat(conn, worker, [], self.now))

    @rule(seconds=st.sampled_from([1.0, 11.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def tick(self) -> None:
        self.database.write(lambda conn: promote_due(conn, self.now, 100))
        self.database.write(lambda conn: expire(conn, self.now, 100))

    @invariant()
    def ends_are_ends(self) -> None:
        for row in self._rows():
            if row.id in self.ends:
                assert row.status == self.ends[row.id]
            elif Status(row.status) in ENDS:
                self.ends[row.id] = row.status

    @invariant()
    def every_end_is_told_once(self) -> None:
        told = Counter((row.type, row.task_id) for row in self._all(callback) if row.task_id is not None)
        assert told == Counter((f"task.{status}", name) for name, status in self.ends.items())

    @invariant()
    def batches_add_up(self) -> None:
        rows = self._rows()
        told = Counter((row.type, row.batch_id) for row in self._all(callback) if row.task_id is None)
        over = Counter[tuple[str, str]]()
        for one in self._all(batch):
            mine = [row for row in rows if row.batch_id == one.id]
            states = Counter(row.status for row in mine)
            for column, ends in COUNTED.items():
                assert getattr(one, column) == sum(states[end] for end in ends), column
            assert one.total == len(mine)
            done = all(Status(row.status) in ENDS for row in mine)
            assert done == (one.status in ("completed", "expired", "cancelled")), one
            if done:
                over[f"batch.{one.status}", one.id] = 1
                assert getattr(one, f"{one.status}_at") is not None
            self._places_are_used(one, mine)
        assert told == over

    def _places_are_used(self, one: Any, mine: list[Any]) -> None:
        """Never more in flight than `batch_size`, and never fewer while some wait for a place."""
        unended = [row for row in mine if Status(row.status) not in ENDS]
        waiting = [row for row in unended if row.hold == Hold.BATCH]
        if one.batch_size is None:
            assert waiting == []
            return
        flying = len(unended) - len(waiting)
        assert flying <= one.batch_size
        assert not waiting or flying == one.batch_size

    @invariant()
    def attempts_add_up(self) -> None:
        """Each call that was counted at its claim is written down when it ends, and only then."""
        written = Counter(row.task_id for row in self._all(attempt))
        for row in self._rows():
            assert row.attempts == written[row.id] + (row.status == "running")
            assert 0 <= row.counted <= row.attempts
            assert row.lost <= 3

    @invariant()
    def running_rows_have_an_owner_and_waiting_ones_none(self) -> None:
        for row in self._rows():
            if row.status == "running":
                assert None not in (row.worker, row.release, row.key, row.claimed_at)
            elif row.status == "queued" and row.worker is not None:
                assert row.lost > 0
                assert row.hold == Hold.NONE

    def _rows(self) -> list[Any]:
        return self._all(task)

    def _all(self, table: Any) -> list[Any]:
        return self.database.read(lambda conn: list(conn.execute(select(table))))


def test_tasks_end_once_and_batches_add_up_whatever_happens(database: Database) -> None:
    machine = type("Life", (Life,), {"database": database})
    examples = 15 if database.dialect == "sqlite" else 6
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=30))
