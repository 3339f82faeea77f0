"""The Celery app: every setting it needs to be right here, each with its reason."""

from __future__ import annotations

from typing import Any

from celery import Celery

from app.platform.domain.names import key_queue
from app.settings import ConfigError, Settings
from app.tasks.domain.task import PriorityStep

RUN_TASK = "penstock.run_task"

# Messages are doorbells with an id, the row is the truth: early acknowledgement. With a late one, an outage of Redis
# ends the worker, and a dropped connection runs every call in flight twice.
_DELIVERY: dict[str, Any] = {
    "task_acks_late": False,
    "task_reject_on_worker_lost": False,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,  # a saturated worker leaves the rest in the list, for others
    "worker_enable_prefetch_count_reduction": False,
    "task_create_missing_queues": True,
}
# Results live in the database. A result backend on Redis would subscribe once a task and keep a day's results.
_RESULTS: dict[str, Any] = {
    "result_backend": None,
    "task_ignore_result": True,
    "task_store_errors_even_if_ignored": False,
}
# The threads pool keeps no time limits; the HTTP deadline and the lease do.
_POOL: dict[str, Any] = {
    "worker_pool": "threads",
    "task_time_limit": None,
    "task_soft_time_limit": None,
}
_EVENTS: dict[str, Any] = {
    "worker_send_task_events": True,  # what Flower sees
    "task_send_sent_event": False,  # costs a publisher a third of its speed; single submissions send theirs
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
# What a worker's own BRPOP names: key queues use the first step alone.
CONSUMED_STEPS = [int(PriorityStep.HIGH)]
TRANSPORT_OPTIONS: dict[str, Any] = {
    # kombu would write every message that a worker takes into a second place in Redis and take it out again, to find
    # it if the worker dies. Here the permit (and a callback's row) does that: the leader puts back within seconds
    # what was released and never redeemed. It saves two of the three round trips that a message costs a worker.
    "ack_emulation": False,
    "max_connections": 100,
    "socket_connect_timeout": 5,
    "socket_timeout": 10,  # by default a publish could hang for ever
    "socket_keepalive": True,
    "health_check_interval": 10,
    "priority_steps": PRIORITY_STEPS,
}


def make_celery(settings: Settings) -> Celery:
    """The app, configured; it connects to nothing yet. Raises ConfigError without a REDIS_URL."""
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
    """One of those that a worker started without -Q consumes: the queue of a key."""
    return {"exchange": "penstock", "routing_key": name}
