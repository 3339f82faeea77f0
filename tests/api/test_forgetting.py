"""What is deleted, not to be stored, or past its time is gone."""

from typing import Any

import pytest
from sqlalchemy import select

from app.dispatching.housekeeping import KeepRetention
from app.settings.models import StorageSettings
from app.tasks.store.tables import task, task_content
from tests.api.gatekeeping import made
from tests.api.world import Client, World

SECRET_PROMPT = "the goose flies at midnight"

pytestmark = pytest.mark.usefixtures("moved_on")


def contents(world: World, name: str) -> Any:
    both = select(task_content.c.request, task_content.c.result, task.c.erased_at, task.c.metadata)
    found = both.join(task, task.c.seq == task_content.c.seq).where(task.c.id == name)
    return world.database.read(lambda c: c.execute(found).first())


def test_what_is_not_to_be_stored_is_erased_an_hour_after_its_end(
    world: World, alice: Client, stranger: Client
) -> None:
    name, kept = alice.submit(SECRET_PROMPT, store=False, metadata={"a": "b"}), stranger.submit(SECRET_PROMPT)
    world.end(name, kept)
    keep = KeepRetention(world.database, world.parts.clock, StorageSettings())
    keep.tick()
    assert SECRET_PROMPT in contents(world, name).request
    world.parts.clock.ahead += 3601
    keep.tick()
    row = contents(world, name)
    assert (row.request, row.result, row.metadata) == ("{}", None, None)
    assert alice.task(name)["status"] == "succeeded"
    assert SECRET_PROMPT in contents(world, kept).request


def test_a_deleted_task_is_gone_at_once_and_its_rows_soon(
    world: World, alice: Client, stranger: Client
) -> None:
    name, queued = alice.submit(SECRET_PROMPT), alice.submit()
    world.end(name)
    assert stranger.call("DELETE", f"/v1/tasks/{name}").status_code == 404
    for one in (name, queued):
        assert alice.call("DELETE", f"/v1/tasks/{one}").json == {
            "id": one,
            "object": "task.deleted",
            "deleted": True,
        }
        assert alice.get(f"/v1/tasks/{one}").status_code == 404
    assert alice.get("/v1/tasks").json["data"] == []
    assert contents(world, name).request == "{}"
    KeepRetention(world.database, world.parts.clock, StorageSettings()).tick()
    assert contents(world, name) is None
    assert contents(world, queued) is None
    assert alice.call("DELETE", f"/v1/tasks/{name}").status_code == 404


def test_tasks_are_deleted_when_their_time_is_over(world: World, admin: Client, stranger: Client) -> None:
    alice = made(world, admin, limits={"retention_seconds": 60})
    name, other = alice.submit(), stranger.submit()
    world.end(name, other)
    world.parts.clock.ahead += 61
    keep = KeepRetention(world.database, world.parts.clock, StorageSettings())
    for _ in range(40):  # a tick is bounded, and other tests have left thousands of tasks
        keep.walk()
    assert contents(world, name) is None
    assert contents(world, other) is not None
