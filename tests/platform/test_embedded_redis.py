"""The Redis that `penstock up` starts for itself."""

import os
from pathlib import Path

import psutil
import pytest
import redis

from app.platform.embedded_redis import EmbeddedRedis, EmbeddedRedisError, free_port


@pytest.fixture
def started(tmp_path: Path):
    servers = []

    def start(folder: str = "data", **more) -> EmbeddedRedis:
        servers.append(EmbeddedRedis.start(tmp_path / folder, **more))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def test_it_answers_at_its_url_on_loopback_and_never_evicts(started) -> None:
    server = started()
    with redis.Redis.from_url(server.url) as client:
        assert client.ping()
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert client.config_get("bind")["bind"] == "127.0.0.1"
        assert client.info("server")["process_id"] == server.pid


def test_what_was_written_is_there_after_an_orderly_restart(started) -> None:
    server = started()
    with redis.Redis.from_url(server.url) as client:
        client.set("kept", "yes")
    server.stop()
    assert not server.alive()
    server.restart()
    with redis.Redis.from_url(server.url) as client:
        assert client.get("kept") == b"yes"


def test_further_directives_reach_the_server(started) -> None:
    server = started(options={"maxmemory": "33mb"}, appendonly=False)
    with redis.Redis.from_url(server.url) as client:
        assert client.config_get("maxmemory")["maxmemory"] == str(33 * 1024 * 1024)
        assert client.config_get("appendonly")["appendonly"] == "no"


def test_the_port_asked_for_is_the_port_used(started) -> None:
    port = free_port()
    assert started(port=port).url == f"redis://127.0.0.1:{port}/0"


def test_a_folder_whose_name_has_a_space_works(started) -> None:
    assert started("my data").alive()


def test_two_servers_never_share_one_folder(started) -> None:
    first = started()
    with pytest.raises(EmbeddedRedisError, match=f"pid {first.pid}.*stop that one first"):
        started()


def test_a_server_left_behind_is_stopped_when_asked_to(started, tmp_path: Path) -> None:
    left_behind = started()
    second = started(takeover=True)
    assert second.pid != left_behind.pid
    assert not left_behind.alive()


def test_a_taken_port_is_an_error_that_quotes_the_server(started) -> None:
    first = started("one")
    with pytest.raises(EmbeddedRedisError, match=r"did not start.*[Aa]ddress already in use"):
        started("two", port=first.port)


def test_a_test_server_can_be_frozen_thawed_killed_and_restarted(make_redis) -> None:
    server = make_redis()
    server.pause()
    with (
        redis.Redis.from_url(server.url, socket_timeout=0.2, retry=None) as client,
        pytest.raises(redis.RedisError),
    ):
        client.ping()
    server.resume()
    with redis.Redis.from_url(server.url) as client:
        client.set("lost", "soon")
    first = server.pid
    server.kill()
    server.restart()
    assert server.pid != first
    with redis.Redis.from_url(server.url) as client:
        assert client.get("lost") is None


def test_a_test_starts_with_an_empty_redis(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0


def test_a_stopped_server_is_gone(started) -> None:
    server = started()
    server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


def test_with_a_password_nobody_gets_in_without_it_and_it_stands_nowhere(started, tmp_path: Path) -> None:
    password = "a-password_of-48"
    server = started(password=password)
    for url in (f"redis://127.0.0.1:{server.port}/0", f"redis://:wrong@127.0.0.1:{server.port}/0"):
        with redis.Redis.from_url(url) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
    with redis.Redis.from_url(server.url) as client:
        client.set("kept", "yes")
    assert password not in " ".join(psutil.Process(server.pid).cmdline())
    assert password not in str(psutil.Process(server.pid).environ())
    server.stop()
    for file in (tmp_path / "data").rglob("*"):
        assert not file.is_file() or password.encode() not in file.read_bytes()


def test_data_of_a_server_without_a_password_is_there_once_it_has_one(started) -> None:
    before = started()
    with redis.Redis.from_url(before.url) as client:
        client.set("kept", "yes")
    before.kill()
    with redis.Redis.from_url(started(password="secret").url) as client:
        assert client.get("kept") == b"yes"


def test_a_server_with_a_password_that_was_left_behind_is_stopped(started) -> None:
    left_behind = started(password="one")
    assert started(takeover=True, password="two").alive()
    assert not left_behind.alive()
