"""Our messages and events against Celery's own, on a real Redis."""

import base64
from collections.abc import Iterator
from threading import Thread
from typing import Any

import orjson
import pytest
import redis
from celery import Celery

from app.execution.celery_app import PRIORITY_STEPS, RUN_TASK, Envelopes, make_celery
from app.platform.domain.names import redis_list
from app.settings import ConfigError, KeySettings, Settings
from app.tasks.domain.attempt import Message

MESSAGE = Message("task_1", 5, "a/model.v1", "alice", "backlog.a/model.v1.alice", 3, 100)
FACTS = {"model": "a/model.v1", "client": "alice", "estimate": 100, "sequence": 5}
LIST = redis_list(MESSAGE.queue, MESSAGE.step)


@pytest.fixture
def celery(redis_url: str) -> Iterator[Celery]:
    keys = (
        KeySettings(name="k1", upstream="up", secret="env:NONE"),
        KeySettings(name="k 2", upstream="up", secret="env:NONE"),
    )
    app = make_celery(Settings(redis_url=redis_url, keys=keys))
    yield app
    app.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as made:
        yield made


def opened(envelope: bytes) -> dict[str, Any]:
    """An envelope with its body read, without what differs from message to message."""
    message = orjson.loads(envelope)
    message["body"] = orjson.loads(base64.b64decode(message["body"]))
    message["properties"].pop("delivery_tag")
    return message


def test_an_envelope_is_what_celery_itself_would_push(celery: Celery, client: redis.Redis) -> None:
    celery.send_task(
        RUN_TASK, ("task_1",), FACTS, task_id="task_1", queue=MESSAGE.queue, priority=3, ignore_result=True
    )
    theirs, ours = opened(client.rpop(LIST)), opened(Envelopes(celery).encode(MESSAGE))
    assert theirs["properties"].pop("reply_to")  # for a result backend that we do not have
    assert ours["properties"].pop("reply_to") == ""
    assert ours == theirs


def test_kombu_reads_a_pushed_envelope(celery: Celery, client: redis.Redis) -> None:
    client.lpush(LIST, Envelopes(celery).encode(MESSAGE))
    with celery.connection_for_read() as connection:
        message = connection.SimpleQueue(MESSAGE.queue).get(timeout=60)
    assert message.payload[0] == ["task_1"]
    assert message.payload[1] == FACTS
    assert message.headers["id"] == "task_1"
    message.ack()


def test_no_prompt_can_be_in_a_message() -> None:
    assert set(Message.__slots__) == {
        "task_id",
        "sequence",
        "model",
        "client",
        "queue",
        "step",
        "estimate",
        "avoid",
        "front",
        "facts",  # which conditions of tiers it meets
        "prefix",  # a digest of its system prompt
        "due",  # its deadline, where its model goes by it
        "asked",  # how many tokens its answer may have
        "trace",  # the traceparent of what submitted it
    }


def test_a_sent_event_makes_flower_know_the_task(celery: Celery, client: redis.Redis) -> None:
    """Heard by Celery's own receiver, which is Flower's. Repeated, as nobody knows when a subscription stands."""
    heard: list[dict[str, Any]] = []

    def listen() -> None:
        with celery.connection_for_read() as connection:
            receiver = celery.events.Receiver(connection, handlers={"task-sent": heard.append})
            for _ in receiver.itercapture(timeout=60, wakeup=False):
                if heard:
                    return

    thread = Thread(target=listen)
    thread.start()
    envelopes = Envelopes(celery)
    while thread.is_alive():
        client.publish(*envelopes.sent_event(MESSAGE))
        thread.join(0.05)
    event = heard[0]
    assert (event["uuid"], event["name"], event["queue"]) == ("task_1", RUN_TASK, MESSAGE.queue)
    assert "alice" in event["kwargs"]


def test_a_worker_without_queues_named_consumes_every_key(celery: Celery) -> None:
    assert set(celery.amqp.queues.consume_from) == {"key.k1", "key.k%202"}


def test_without_redis_url_there_is_a_clear_word() -> None:
    with pytest.raises(ConfigError, match="REDIS_URL"):
        make_celery(Settings())


def test_the_transport_looks_into_the_steps_in_use_alone(celery: Celery) -> None:
    assert celery.conf.broker_transport_options["priority_steps"] == PRIORITY_STEPS == [0, 3, 6]
