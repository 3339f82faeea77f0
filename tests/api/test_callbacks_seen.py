"""What a client sees of its callbacks."""

from typing import Any

from sqlalchemy import select

from app.callbacks.store.callbacks import DeliveryRecord, claim_callback, record_delivery
from app.tasks.domain.task import CallbackState
from app.tasks.store.tables import callback
from tests.api.world import Client, World

HOOK = "https://example.com/hook"


def deliver(world: World, task_id: str, state: CallbackState, **changes: Any) -> str:
    """What a callback worker does; gives back the callback's id."""
    now = world.parts.clock.now()
    chosen = select(callback.c.id).where(callback.c.task_id == task_id)
    callback_id: str = world.database.read(lambda c: c.execute(chosen).scalar_one())
    claimed = world.database.write(lambda c: claim_callback(c, callback_id, "worker", now))
    assert claimed is not None
    record = DeliveryRecord(callback_id, claimed.tries, "example.com:443", state, now, now + 0.5, **changes)
    assert world.database.write(lambda c: record_delivery(c, record))
    return callback_id


def test_a_callback_is_unwritten_then_pending_then_delivered(
    world: World, alice: Client, stranger: Client
) -> None:
    task_id = alice.submit(callback_url=HOOK)
    assert alice.task(task_id)["callback"] == {"url": HOOK, "status": None}
    world.end(task_id)
    assert alice.task(task_id)["callback"]["status"] == "pending"
    now = world.parts.clock.now()
    callback_id = deliver(world, task_id, CallbackState.PENDING, status_code=500, error="500", next_at=now)
    deliver(world, task_id, CallbackState.DELIVERED, status_code=204)
    assert alice.task(task_id)["callback"]["status"] == "delivered"
    first, second = alice.get(f"/v1/tasks/{task_id}/deliveries").json["data"]  # type: ignore[index]
    assert (first["number"], first["status_code"], first["error"]) == (1, 500, "500")
    assert (second["number"], second["status_code"], second["error"]) == (2, 204, None)
    assert {d["callback_id"] for d in (first, second)} == {callback_id}
    assert (second["type"], second["url"]) == ("task.succeeded", HOOK)
    assert stranger.get(f"/v1/tasks/{task_id}/deliveries").status_code == 404


def test_a_cancelled_task_is_told_as_well(world: World, alice: Client) -> None:
    task_id = alice.submit(callback_url=HOOK)
    alice.post(f"/v1/tasks/{task_id}/cancel")
    assert alice.task(task_id)["callback"]["status"] == "pending"


def test_a_batchs_callback_is_shown_with_the_batch(world: World, alice: Client) -> None:
    batch = alice.submit_batch(1, callback_url=HOOK)
    assert batch["callback"] == {"url": HOOK, "status": None}
    world.end(*batch["task_ids"])
    assert alice.get(f"/v1/batch/{batch['id']}").json["callback"]["status"] == "pending"  # type: ignore[index]
    assert alice.task(batch["task_ids"][0])["callback"] is None
