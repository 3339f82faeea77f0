"""Submissions on a full disk."""

from tests.api.world import Client, World
from tests.full_disk import full_disk


def test_on_a_full_disk_nothing_is_accepted_until_there_is_room(
    world: World, alice: Client, stranger: Client
) -> None:
    kept = alice.submit()
    large = {"prompt": "x" * 200_000}
    with full_disk(world.database):
        for path, body in (("/v1/tasks", large), ("/v1/batch", {"requests": [large]})):
            refused = alice.post(path, body, idempotency_key=f"full{path}")
            assert (refused.status_code, refused.json["error"]["code"]) == (503, "database_unreachable")  # type: ignore[index]
            assert int(refused.headers["Retry-After"]) >= 1
        assert alice.task(kept)["status"] == "queued"
    assert [row["id"] for row in alice.get("/v1/tasks").json["data"]] == [kept]  # type: ignore[index]
    assert alice.post("/v1/tasks", large, idempotency_key="full/v1/tasks").status_code == 202
    assert stranger.get("/v1/tasks").json["data"] == []  # type: ignore[index]
