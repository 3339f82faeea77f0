"""The configured text for when nobody can answer: only for whom it is allowed, and marked."""

from __future__ import annotations

from sqlalchemy import select

from app.caching.domain.caching import Fallback
from app.dispatching.waiting_tasks import GiveDegraded
from app.tasks.store.tables import task
from tests.api.world import MODEL, Client, World


def wait_until(world: World, **where: str) -> list[float | None]:
    """For how long tasks wait before the text may answer them."""
    wanted = select(task.c.degrade_at - task.c.available_at).where(
        *(task.c[name] == value for name, value in where.items())
    )
    found = world.database.read(lambda conn: conn.execute(wanted.order_by(task.c.seq)).scalars().all())
    return [None if seconds is None else round(seconds / 5) * 5.0 for seconds in found]


def test_the_text_answers_only_where_the_request_allows_it(world: World, alice: Client) -> None:
    assert wait_until(world, id=alice.submit(allow_degraded=True)) == [45.0]
    assert wait_until(world, id=alice.submit()) == [None]
    assert wait_until(world, id=alice.submit(allow_degraded=True, model="org/other.model")) == [None]
    requests = [{"prompt": "One"}, {"prompt": "Two", "allow_degraded": False}]
    answer = alice.post("/v1/batch", {"requests": requests, "allow_degraded": True})
    assert wait_until(world, batch_id=answer.json["id"]) == [45.0, None]  # type: ignore[index]


def test_a_chat_call_is_answered_by_the_marked_text(world: World, alice: Client) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "allow_degraded": True}
    headers = {"prefer": "respond-async, wait=0", "idempotency_key": "again"}
    first = alice.post("/v1/chat/completions", body, **headers)
    assert first.status_code == 202, first.data
    world.parts.clock.ahead += 60
    GiveDegraded(world.database, world.publisher, world.parts.clock, {MODEL: Fallback("busy")}).tick()
    shown = alice.get(f"/v1/tasks/{first.json['id']}").json  # type: ignore[index]
    assert (shown["status"], shown["degraded"], shown["cost"]["micros"]) == ("succeeded", True, 0)  # type: ignore[index]
    answer = alice.post("/v1/chat/completions", body, **headers).json
    assert answer["degraded"] is True  # type: ignore[index]
    assert answer["choices"][0]["message"]["content"] == "busy"  # type: ignore[index]
