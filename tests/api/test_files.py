"""Files past their time, and uploads that never ended: gone at once for callers, and from the database soon after."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from app.dispatching.housekeeping import CleanFiles
from app.tasks.store.files import CHUNK_BYTES
from app.tasks.store.tables import file, file_chunk
from tests.api.world import Client, World

FORM = "multipart/form-data; boundary=x"
DATA = b"z" * (2 * CHUNK_BYTES + 5)


def field(name: str, value: bytes, more: bytes = b"") -> bytes:
    return (
        b'--x\r\nContent-Disposition: form-data; name="' + name.encode() + b'"' + more + b"\r\n\r\n" + value
    )


def form(*fields: tuple[str, str], data: bytes = DATA, end: bytes = b"\r\n--x--\r\n") -> bytes:
    parts = [field(name, value.encode()) for name, value in fields]
    return b"\r\n".join([*parts, field("file", data, b'; filename="f.bin"')]) + end


def upload(client: Client, *fields: tuple[str, str]) -> Any:
    answer = client.post("/v1/files", form(("purpose", "user_data"), *fields), content_type=FORM)
    assert answer.status_code == 200, answer.data
    return answer.json


def stored(world: World, client: Client) -> tuple[int, int]:
    """Files and chunks of a client."""
    mine = select(file.c.seq).where(file.c.client_id == client.id)
    chunks = select(func.count()).select_from(file_chunk).where(file_chunk.c.file_seq.in_(mine))
    files = select(func.count()).select_from(file).where(file.c.client_id == client.id)
    return world.database.read(lambda c: (c.execute(files).scalar_one(), c.execute(chunks).scalar_one()))


@pytest.fixture
def clean(world: World) -> Any:
    return lambda: CleanFiles(world.database, world.parts.clock).tick()


def test_a_file_is_gone_at_its_time_and_its_chunks_soon_after(
    world: World, alice: Client, stranger: Client, clean: Any
) -> None:
    until = (("expires_after[anchor]", "created_at"), ("expires_after[seconds]", "3600"))
    short, kept = upload(alice, *until), upload(stranger)
    path = f"/v1/files/{short['id']}"
    world.parts.clock.ahead += 3500
    assert clean() == 0
    assert alice.get(f"{path}/content").data == DATA
    world.parts.clock.ahead += 101
    for answer in (alice.get(path), alice.get(f"{path}/content"), alice.call("DELETE", path)):
        assert answer.status_code == 404
    assert alice.get("/v1/files").json["data"] == []  # type: ignore[index]
    wish = {"input_file_id": short["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    assert alice.post("/v1/batches", wish).status_code == 400
    assert stored(world, alice) == (1, 3)
    assert clean() == 1
    assert stored(world, alice) == (0, 0)
    assert stranger.get(f"/v1/files/{kept['id']}/content").data == DATA


def test_an_upload_that_breaks_off_leaves_nothing(world: World, alice: Client) -> None:
    for broken in (form(end=b""), form(("purpose", "user_data"), end=b"\r\n--x")):
        answer = alice.post("/v1/files", broken, content_type=FORM)
        assert (answer.status_code, answer.json["error"]["code"]) == (400, "incomplete_body")  # type: ignore[index]
    assert stored(world, alice) == (0, 0)


def test_an_upload_whose_process_died_is_seen_by_nobody_and_cleaned(
    world: World, alice: Client, clean: Any
) -> None:
    dying = world.app.openai.store_file.begin(alice.id, "half.bin")
    dying.write(DATA)
    assert stored(world, alice) == (1, 2)
    assert alice.get("/v1/files").json["data"] == []  # type: ignore[index]
    world.parts.clock.ahead += 3600
    assert clean() == 0, "it may still be on its way"
    world.parts.clock.ahead += 3660
    assert clean() == 1
    assert stored(world, alice) == (0, 0)
