"""What cannot begin before its deadline ends early, with the reason."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.dispatching.waiting_tasks import ExpireUnreachable
from app.platform.database import Database
from app.settings.domain.routing import ConfiguredQuota, Route, Topology
from app.tasks.domain.task import Status
from tests.tasks.rows import DAY, NOW, add, add_batch, new_task, row_of, take
from tests.tasks.test_windows import Clock, Told

QUEUE = "backlog.deepseek-flash.alice"
TOPOLOGY = Topology(
    {"deepseek-flash": ((Route("k", "u", "a", "m"),),)},
    {"account:a:m": ConfiguredQuota("account:a:m", rpm=4)},
)


@dataclass
class Announcing(Told):
    announced: list[str] = field(default_factory=list)

    def announce(self, ids: list[str]) -> None:
        self.announced += ids


def test_tasks_that_can_no_longer_begin_in_time_expire_early(database: Database) -> None:
    """Ten at once and five a minute at most, with all margins: of 20 due in half a minute the last seven are late."""
    publisher, clock = Announcing(), Clock()
    chore = ExpireUnreachable(database, publisher, clock, TOPOLOGY, lambda: [(QUEUE, 3)])
    ids = add_batch(database, 20, expires_at=NOW + DAY, task={"expires_at": NOW + 30})
    add(
        database,
        new_task("patient"),
        new_task("bobs", queue="backlog.deepseek-flash.bob", expires_at=NOW + 1),
    )
    take(database, ids[19])
    assert chore.tick() == 6
    late = [name for name in ids if row_of(database, name).status == Status.EXPIRED]
    assert late == ids[13:19]
    assert publisher.forgotten == publisher.announced == late
    row = row_of(database, late[0])
    assert row.error_code == "deadline_unreachable"
    assert "at most 4 calls a minute" in row.error_message
    assert row_of(database, ids[19]).status == Status.RUNNING
    assert row_of(database, "task_patient").status == Status.QUEUED
    assert chore.tick() == 0
    clock.at += 10  # in which nothing began: one more is late now
    assert chore.tick() == 1
    assert row_of(database, ids[12]).status == Status.EXPIRED
