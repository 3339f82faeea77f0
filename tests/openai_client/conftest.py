"""One service for all tests here."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.openai_client.world import World
from tests.servers import PostgresServer, RedisServer


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("openai")
    redis = RedisServer(folder / "redis")
    url = postgres_server.create_database()
    made = World(folder / "stack", url, redis.url)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        redis.stop()
        postgres_server.drop_database(url)


@pytest.fixture
def client(world: World) -> openai.OpenAI:
    return world.client()
