"""The Celery task of callback workers, which consume the queue `callbacks` and nothing else:

celery -A workers worker -Q callbacks -P threads -c 100 -E --without-gossip --without-mingle
"""

from __future__ import annotations

from typing import Any

from celery.signals import worker_ready, worker_shutting_down

from app.callbacks.deliver_callback import CurrentDelivery
from app.callbacks.store.callback_notifier import DELIVER_CALLBACK
from app.composition.worker import build_callback_delivery
from app.platform.domain.names import CALLBACKS
from app.settings import Settings
from workers.celery import celery, parts

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
