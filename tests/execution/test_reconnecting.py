"""A worker's tries at reaching a Redis that is away: real refusals, with the time between them moved."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from celery import Celery
from kombu.utils import functional

from tests.servers import RedisServer
from workers.consumer import MOST_SECONDS, PromptConsumer

AWAY_SECONDS = 61.0
_CONTROLLER = SimpleNamespace(use_eventloop=False, state=None)


def test_a_worker_is_back_two_seconds_after_a_redis_that_was_away_for_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = RedisServer(tmp_path)
    server.kill()
    waited = 0.0

    def wait(seconds: float) -> None:
        nonlocal waited
        if waited < AWAY_SECONDS <= waited + seconds:
            server.restart()
        waited += seconds

    monkeypatch.setattr(functional, "sleep", wait)
    try:
        celery = Celery(broker=server.url, set_as_current=False)
        consumer = PromptConsumer(lambda _request: None, app=celery, controller=_CONTROLLER)
        with consumer.connection_for_read() as connection:
            assert connection.connected
        assert AWAY_SECONDS <= waited <= AWAY_SECONDS + MOST_SECONDS
    finally:
        server.stop()
