"""The bell on a real Redis: what it pushes is what Celery would have pushed, and never too much."""

import json
from base64 import b64decode
from collections.abc import Callable

import pytest
import redis

from app.callbacks.store.callback_notifier import DELIVER_CALLBACK, RedisCallbackNotifier
from app.execution.celery_app import make_celery
from app.platform.ports import SystemClock
from app.platform.redis_scripts import Scripts, connect
from app.settings import Settings
from tests.callbacks.world import MovedClock
from tests.servers import RedisServer


def _notifier(url: str, **limits: int) -> RedisCallbackNotifier:
    return RedisCallbackNotifier(
        Scripts(connect(url, timeout=60)), make_celery(Settings(redis_url=url)), SystemClock(), **limits
    )


def _shape(value: object) -> object:
    """Names and kinds, without the values that differ from message to message."""
    if isinstance(value, dict):
        return {name: _shape(item) for name, item in value.items()}
    return type(value).__name__


def test_a_message_has_the_shape_of_one_that_celery_publishes(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    assert not _notifier(redis_url).notify(["evt_1"])
    ours = json.loads(client.rpop("callbacks"))
    celery = make_celery(Settings(redis_url=redis_url))
    celery.send_task(
        DELIVER_CALLBACK, args=("evt_1",), task_id="evt_1", queue="callbacks", ignore_result=True
    )
    theirs = json.loads(client.rpop("callbacks"))
    assert json.loads(b64decode(ours.pop("body"))) == json.loads(b64decode(theirs.pop("body")))
    assert _shape(ours) == _shape(theirs)
    assert ours["headers"] == theirs["headers"]
    celery.close()


def test_the_oldest_is_taken_first(redis_url: str) -> None:
    _notifier(redis_url).notify([f"evt_{number}" for number in range(450)])
    client = redis.Redis.from_url(redis_url)
    taken = [json.loads(client.rpop("callbacks"))["headers"]["id"] for _ in range(450)]
    assert taken == [f"evt_{number}" for number in range(450)]


def test_the_queue_is_never_fuller_than_it_may_be(redis_url: str) -> None:
    bell = _notifier(redis_url, most_queued=10)
    assert bell.notify([f"evt_{number}" for number in range(14)]) == [
        f"evt_{number}" for number in range(10, 14)
    ]
    assert bell.room() == 0
    assert bell.notify(["evt_more"]) == ["evt_more"]
    assert redis.Redis.from_url(redis_url).llen("callbacks") == 10


def test_a_redis_that_is_gone_is_silence_and_is_not_asked_again_for_a_second(
    make_redis: Callable[..., RedisServer],
) -> None:
    server = make_redis()
    clock = MovedClock()
    scripts = Scripts(connect(server.url, timeout=0.3))
    bell = RedisCallbackNotifier(scripts, make_celery(Settings(redis_url=server.url)), clock)
    server.kill()
    assert bell.notify(["evt_1"]) == ["evt_1"]
    asked = _Counted(scripts)
    bell._scripts = asked  # type: ignore[assignment]
    assert bell.room() == 0
    assert asked.times == 0
    clock.move(1.1)
    assert bell.room() == 0
    assert asked.times == 1


class _Counted:
    """Scripts that count."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self.times = 0

    def command(self, *arguments: str) -> object:
        self.times += 1
        return self._scripts.command(*arguments)


@pytest.mark.parametrize("count", [0, 1])
def test_ringing_for_nobody_asks_nobody(redis_url: str, count: int) -> None:
    assert list(_notifier(redis_url, most_queued=0).notify(["evt"] * count)) == ["evt"] * count
