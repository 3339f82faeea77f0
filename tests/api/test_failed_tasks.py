"""Failed tasks: listed by reason, and run again, one or all of a kind. A stranger never touches them."""

from app.tasks.domain.attempt import Outcome, TaskFailure
from app.tasks.domain.task import Status
from app.tasks.store.tables import task
from tests.api.world import Client, World


def fail(world: World, name: str, code: str = "upstream_unavailable") -> str:
    """End it as an upstream that is away would."""
    failure = TaskFailure("upstream_error", code, "no luck")
    world.end(
        name,
        outcome=Outcome.UNAVAILABLE,
        status=Status.FAILED,
        result=None,
        usage=None,
        cost=None,
        failure=failure,
    )
    return name


def ids(client: Client, query: str) -> list[str]:
    return [row["id"] for row in client.get(f"/v1/tasks?{query}").json["data"]]  # type: ignore[index]


def test_failed_tasks_are_listed_by_reason(world: World, alice: Client, stranger: Client) -> None:
    away, slow = fail(world, alice.submit()), fail(world, alice.submit(), "upstream_timeout")
    assert ids(alice, "status=failed") == [slow, away]
    assert ids(alice, "status=failed&reason=upstream_timeout") == [slow]
    assert ids(alice, "reason=upstream_unavailable") == [away]
    assert ids(stranger, "status=failed&reason=upstream_timeout") == []


def test_a_failed_task_is_run_again_once_by_a_new_one(world: World, alice: Client, stranger: Client) -> None:
    old = fail(world, alice.submit("once more", metadata={"a": "b"}))
    assert stranger.post(f"/v1/tasks/{old}/retry").status_code == 404
    again = alice.post(f"/v1/tasks/{old}/retry")
    new = again.json["id"]  # type: ignore[index]
    assert (again.status_code, again.headers["Location"]) == (202, f"/v1/tasks/{new}")
    assert (alice.task(new)["status"], alice.task(new)["metadata"]) == ("queued", {"a": "b"})
    assert alice.task(old)["status"] == "failed"
    assert alice.post(f"/v1/tasks/{old}/retry").status_code == 409
    assert alice.post(f"/v1/tasks/{new}/retry").status_code == 409


def test_what_would_fail_again_or_is_kept_no_more_is_not_run_again(world: World, alice: Client) -> None:
    refused, deleted = fail(world, alice.submit(), "invalid_request"), fail(world, alice.submit())
    assert alice.call("DELETE", f"/v1/tasks/{deleted}").status_code == 200
    assert alice.post(f"/v1/tasks/{refused}/retry").status_code == 409
    assert alice.post(f"/v1/tasks/{deleted}/retry").status_code == 404
    assert alice.post("/v1/tasks/retry", {"since": 1}).json["retried"] == 0  # type: ignore[index]


def test_all_of_a_reason_since_an_instant_are_run_again(
    world: World, alice: Client, stranger: Client
) -> None:
    early = fail(world, alice.submit())
    world.parts.clock.ahead += 100
    since = world.parts.clock.now() - 50
    late, slow = fail(world, alice.submit()), fail(world, alice.submit(), "upstream_timeout")
    theirs = fail(world, stranger.submit())
    line = fail(world, alice.submit_batch(1)["task_ids"][0])
    answer = alice.post("/v1/tasks/retry", {"reason": "upstream_unavailable", "since": since})
    assert answer.status_code == 202
    assert (answer.json["retried"], answer.json["has_more"], answer.json["refused"]) == (1, False, None)  # type: ignore[index]

    def replaced(name: str) -> bool:
        found = task.select().where(task.c.id == name)
        return world.database.read(lambda conn: conn.execute(found).one()).replaced_by is not None

    assert [replaced(name) for name in (early, late, slow, theirs, line)] == [
        False,
        True,
        False,
        False,
        False,
    ]
    assert alice.post("/v1/tasks/retry", {}).status_code == 400
