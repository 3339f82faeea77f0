"""The Celery tasks: `run_task` for released tasks, `deliver_callback` for the queue `callbacks`.

A process that consumes `callbacks` alone is a callback worker:
celery -A workers worker -Q callbacks -P threads -c 100 -E --without-gossip --without-mingle
"""

from __future__ import annotations

from typing import Any

from celery.exceptions import Ignore, Retry
from celery.signals import worker_ready, worker_shutting_down

from app.callbacks.deliver_callback import CurrentDelivery
from app.callbacks.store.callback_notifier import DELIVER_CALLBACK
from app.composition.worker import build_callback_delivery
from app.execution.celery_app import RUN_TASK
from app.platform.domain.names import CALLBACKS
from app.settings import Settings
from workers.celery import celery, parts
from workers.lifecycle import process


class TaskFailed(Exception):
    """A task failed. Its text is an error code of ours: no prompt, no secret, no word of an upstream."""


class CallFailed(Exception):
    """A call failed and its task will run again. Its text is an outcome."""


@celery.task(name=RUN_TASK, bind=True, throws=(TaskFailed,))
def run_task(self: Any, task_id: str, **_facts: Any) -> None:
    """Run one released task. `_facts` are only shown in Flower."""
    ran = process().runner.run(task_id, self.request.get("traceparent") or "")
    if ran.kind == "failed":
        raise TaskFailed(ran.reason)
    if ran.kind == "again":
        raise Retry(ran.reason, CallFailed(ran.reason))
    if ran.kind == "cancelled":
        self.send_event("task-revoked", terminated=True, signum=None, expired=False)
    if ran.kind != "succeeded":
        raise Ignore


current = CurrentDelivery(lambda: build_callback_delivery(parts))


@celery.task(name=DELIVER_CALLBACK)
def deliver_callback(callback_id: str) -> None:
    """Deliver one callback, then those queued for the same host."""
    current.deliver(callback_id)


@worker_ready.connect
def _follow(**_: Any) -> None:
    if CALLBACKS in celery.amqp.queues.consume_from:
        parts.follow(_renew).start()


def _renew(settings: Settings) -> None:
    """Deliver the next callback under the new configuration."""
    newer = parts.renewed(settings)
    current.replace(lambda: build_callback_delivery(newer))


@worker_shutting_down.connect
def _stop(**_: Any) -> None:
    """SIGTERM: finish what is in flight, start nothing more."""
    current.stop()
