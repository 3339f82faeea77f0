"""A streamed answer of which a piece is lost between worker and API: said, never patched over."""

from __future__ import annotations

import threading
from typing import Any

import orjson
import pytest
from sqlalchemy import select

from app.api.application import create_app
from app.platform.redis_scripts import Scripts, connect
from app.tasks.store.tables import task
from app.upstreams.answer_streams import RedisStreamReader, RedisStreamWriter
from app.upstreams.domain.chat_stream import Piece
from tests.api.world import Client, Parts, World
from tests.stack import wait_until

RELEASE = 7


def chunk(text: str) -> bytes:
    delta = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return orjson.dumps({"id": "c", "object": "chat.completion.chunk", "choices": [delta]})


def events_of(body: bytes) -> list[Any]:
    lines = [line.removeprefix(b"data: ") for line in body.splitlines() if line.startswith(b"data: ")]
    return [orjson.loads(line) for line in lines]


@pytest.mark.parametrize(
    "pieces", [[(0, "a"), (2, "c")], [(0, "a"), (3, None)]], ids=["one in the middle", "the last ones"]
)
def test_a_lost_piece_ends_the_stream_with_an_error_and_the_whole_answer_is_kept(
    world: World, alice: Client, redis_url: str, pieces: list[tuple[int, str | None]]
) -> None:
    client = connect(redis_url, timeout=60)
    app = create_app(Parts(world.database, streams=RedisStreamReader(client)))  # type: ignore[arg-type]
    said: list[bytes] = []

    def ask() -> None:
        body = {"messages": [{"role": "user", "content": "tell"}], "stream": True}
        said.append(Client(alice.id, alice.key, app.test_client()).post("/v1/chat/completions", body).data)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        mine = select(task.c.id).where(task.c.client_id == alice.id)
        (task_id,) = wait_until(lambda: world.database.read(lambda conn: conn.execute(mine).scalars().all()))
        writer = RedisStreamWriter(Scripts(client))
        for number, text in pieces:
            writer.send(task_id, Piece(RELEASE, number, None if text is None else chunk(text)))
        asking.join(120)
        assert not asking.is_alive()
        world.end(task_id)
        assert alice.task(task_id)["result"]["choices"]
    finally:
        app.close()
        client.close()
    shown, error = events_of(said[0])
    assert shown["choices"][0]["delta"]["content"] == "a"
    assert error["error"]["code"] == "stream_gap"
