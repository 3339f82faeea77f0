"""Tasks that may run off-peak alone: single ones, batches, chats. The upstream of these tests is busy at all hours."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from app.platform.domain.errors import Invalid
from app.submission.check_request import SubmissionRules, draft_task
from app.submission.domain.request import TaskRequest
from app.tasks.domain.task import Hold
from app.tasks.store.tables import client, task
from tests.api.world import MODEL, Client, World

HOURS = 3600.0


def rows_of(world: World, **where: str) -> list[object]:
    columns = [task.c.hold, task.c.off_peak, task.c.available_at, task.c.expires_at, task.c.fed_at]
    wanted = select(*columns).where(*(task.c[name] == value for name, value in where.items()))
    return list(world.database.read(lambda conn: conn.execute(wanted).all()))


def test_a_task_waits_and_starts_a_minute_before_its_deadline_at_the_latest(
    world: World, alice: Client
) -> None:
    (row,) = rows_of(world, id=alice.submit(window="off_peak", expires_in="2h"))
    assert (row.hold, row.off_peak, row.fed_at) == (Hold.OFF_PEAK, True, None)
    assert row.available_at == row.expires_at - 60
    assert row.available_at - world.parts.clock.now() == pytest.approx(2 * HOURS - 60, abs=30)


def test_a_task_too_near_its_deadline_does_not_wait(world: World, alice: Client) -> None:
    (row,) = rows_of(world, id=alice.submit(window="off_peak", expires_in=50))
    assert row.hold == Hold.NONE


def test_of_a_batch_all_wait_but_those_with_a_time_of_their_own(world: World, alice: Client) -> None:
    now = world.parts.clock.now()
    requests = [{"prompt": "One"}, {"prompt": "Two", "run_at": now + HOURS}]
    answer = alice.post("/v1/batch", {"requests": requests, "window": "off_peak"})
    assert answer.status_code == 202, answer.data
    rows = rows_of(world, batch_id=answer.json["id"])  # type: ignore[index]
    assert [row.hold for row in rows] == [Hold.OFF_PEAK, Hold.UNTIL]
    answer = alice.post("/v1/batch", {"requests": [{"prompt": "Three"}], "run_at": now + HOURS})
    (row,) = rows_of(world, batch_id=answer.json["id"])  # type: ignore[index]
    assert (row.hold, row.available_at) == (Hold.UNTIL, pytest.approx(now + HOURS, abs=1))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/tasks", {"prompt": "x"}),
        ("/v1/batch", {"requests": [{"prompt": "x"}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ],
)
def test_two_wishes_for_when_to_run_are_refused(alice: Client, path: str, body: dict[str, object]) -> None:
    answer = alice.post(path, {**body, "run_at": 0, "window": "off_peak"})
    assert (answer.status_code, answer.json["error"]["param"]) == (400, "window")  # type: ignore[index]
    answer = alice.post(path, {**body, "window": "night"})
    assert (answer.status_code, answer.json["error"]["param"]) == (400, "window")  # type: ignore[index]


def test_a_task_goes_by_its_deadline_where_it_or_its_client_asks(world: World, alice: Client) -> None:
    def due(**body: object) -> float:
        wanted = select(task.c.due - task.c.expires_at).where(task.c.id == alice.submit(**body))
        return float(world.database.read(lambda conn: conn.execute(wanted).scalar_one()))

    assert due(order="deadline") == 0
    assert due() > 0
    world.database.write(
        lambda conn: conn.execute(
            update(client).where(client.c.id == alice.id).values(settings='{"limits": {"order": "deadline"}}')
        )
    )
    world.parts.clock.ahead += 10
    assert due() == 0
    assert due(order="arrival") > 0
    answer = alice.post("/v1/batch", {"requests": [{"prompt": "x"}], "order": "nearest"})
    assert (answer.status_code, answer.json["error"]["param"]) == (400, "order")  # type: ignore[index]


def test_without_a_calendar_there_is_nothing_to_wait_for() -> None:
    request = TaskRequest([{"role": "user", "content": "x"}], MODEL, off_peak=True)
    with pytest.raises(Invalid, match="no busy hours are configured") as refused:
        draft_task(request, "alice", SubmissionRules(frozenset({MODEL})), 1e9)
    assert refused.value.code == "no_calendar"
