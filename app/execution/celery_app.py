"""The Celery app with its settings and their reasons, and the messages that carry tasks to workers."""

from __future__ import annotations

import os
import time
from typing import Any

import orjson
from celery import Celery
from celery.utils.time import utcoffset
from kombu.transport.redis import Channel

from app.platform.celery_messages import MessageTemplate, delivery, envelope
from app.platform.domain.names import key_queue
from app.settings import ConfigError, Settings
from app.tasks.domain.attempt import Message
from app.tasks.domain.task import PriorityStep

RUN_TASK = "penstock.run_task"

# A message carries an id only and the row is the truth: early acknowledgement. With a late one, an outage
# of Redis ends the worker, and a dropped connection runs every call in flight twice.
_DELIVERY: dict[str, Any] = {
    "task_acks_late": False,
    "task_reject_on_worker_lost": False,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,  # a saturated worker leaves the rest in the list, for others
    "worker_enable_prefetch_count_reduction": False,
    "task_create_missing_queues": True,
}
# Results live in the database. A result backend on Redis would subscribe once per task and keep a day's results.
_RESULTS: dict[str, Any] = {
    "result_backend": None,
    "task_ignore_result": True,
    "task_store_errors_even_if_ignored": False,
}
# The threads pool enforces no time limits; the HTTP deadline and the lease do.
_POOL: dict[str, Any] = {
    "worker_pool": "threads",
    "task_time_limit": None,
    "task_soft_time_limit": None,
}
_EVENTS: dict[str, Any] = {
    "worker_send_task_events": True,  # what Flower sees
    "task_send_sent_event": False,  # costs a publisher a third of its speed; single submissions send their own
}
_BROKER: dict[str, Any] = {
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
}
_FORM: dict[str, Any] = {
    "task_serializer": "json",
    "accept_content": ["json"],
    "enable_utc": True,
    "worker_redirect_stdouts": False,
}
PRIORITY_STEPS = [int(step) for step in PriorityStep]
# The steps in a worker's own BRPOP: key queues use only the first.
CONSUMED_STEPS = [int(PriorityStep.HIGH)]
TRANSPORT_OPTIONS: dict[str, Any] = {
    # kombu would copy every message that a worker takes to a second place in Redis, to recover it if the worker dies.
    # Here the permit (and a callback's row) does that: within seconds the leader re-queues what was released and never
    # redeemed. This saves two of the three round trips that a message costs a worker.
    "ack_emulation": False,
    "max_connections": 100,
    "socket_connect_timeout": 5,
    "socket_timeout": 10,  # by default a publish could hang forever
    "socket_keepalive": True,
    "health_check_interval": 10,
    "priority_steps": PRIORITY_STEPS,
}


def make_celery(settings: Settings) -> Celery:
    """The configured app; it does not connect yet. Raises ConfigError without a REDIS_URL."""
    if settings.redis_url is None:
        raise ConfigError("REDIS_URL", None, "is not set", "export REDIS_URL=redis://HOST:6379/0")
    celery = Celery("penstock", set_as_current=True)
    celery.conf.update(
        broker_url=settings.redis_url,
        broker_transport_options=dict(TRANSPORT_OPTIONS),
        task_queues={name: _queue(name) for name in map(key_queue, settings.open_keys)},
        worker_concurrency=settings.worker.concurrency,
        **_DELIVERY,
        **_RESULTS,
        **_POOL,
        **_EVENTS,
        **_BROKER,
        **_FORM,
    )
    return celery


def _queue(name: str) -> dict[str, str]:
    """A key queue, which a worker started without -Q consumes."""
    return {"exchange": "penstock", "routing_key": name}


class Envelopes:
    """Encodes messages and their `task-sent` events. Immutable after construction, so threads may share it."""

    def __init__(self, celery: Celery) -> None:
        self._template = MessageTemplate(celery, RUN_TASK)
        self._event_exchange: str = celery.conf.event_exchange
        self._event_topic = _event_topic(celery)
        self._clock = celery.clock

    def encode(self, message: Message) -> bytes:
        """The message as an element of its queue's list."""
        facts, step = _facts(message), int(message.step)
        return self._template.encode(
            message.task_id, message.queue, facts, priority=step, trace=message.trace
        )

    def sent_event(self, message: Message) -> tuple[str, bytes]:
        """Channel and payload that show a task in Flower before any worker receives it."""
        task_id, node = message.task_id, self._template.node
        event = {
            **self._template.sent_event,
            "type": "task-sent",
            "hostname": node,
            "utcoffset": utcoffset(),
            "pid": os.getpid(),
            "clock": self._clock.forward(),
            "timestamp": time.time(),
            "uuid": task_id,
            "root_id": task_id,
            "args": repr((task_id,)),
            "kwargs": repr(_facts(message)),
            "queue": message.queue,
            "exchange": "",
            "routing_key": message.queue,
        }
        properties = delivery(self._event_exchange, "task.sent", mode=1)
        payload = envelope(orjson.dumps(event), {"hostname": node}, properties)
        return f"{self._event_topic}/task.sent", payload


def _facts(message: Message) -> dict[str, Any]:
    return {
        "model": message.model,
        "client": message.client,
        "estimate": message.estimate,
        "sequence": message.sequence,
    }


def _event_topic(celery: Celery) -> str:
    """Where kombu publishes events; the channel's name contains the number of the database."""
    database = celery.connection_for_write().virtual_host
    prefix = Channel.keyprefix_fanout.format(db=int(str(database or "0").strip("/") or 0))
    return f"{prefix}{celery.conf.event_exchange}"
