"""The Celery task of callback workers, which consume the queue `callbacks` and nothing else:

celery -A workers worker -Q callbacks -P threads -c 100 -E --without-gossip --without-mingle
"""

from __future__ import annotations

import threading
from typing import Any

from celery.signals import worker_ready, worker_shutting_down

from app.adapters.callback_bell import DELIVER_CALLBACK
from app.domain.queue import CALLBACKS
from app.services.deliver_callback import CallbackDelivery
from app.settings import Settings
from workers.celery import celery, parts

_making = threading.Lock()
_made: list[
    CallbackDelivery
] = []  # the newest configuration's first; older ones end what they have in the air
_wanted = [parts]


def delivery() -> CallbackDelivery:
    """This process's one, made at the first callback: it knows what is in the air for each host."""
    with _making:
        if _wanted:
            _made.insert(0, _wanted.pop().callback_delivery)
        return _made[0]


@celery.task(name=DELIVER_CALLBACK)
def deliver_callback(callback_id: str) -> None:
    """Deliver one callback, and what waits in line behind it for the same host."""
    delivery().deliver(callback_id)


@worker_ready.connect
def _follow(**_: Any) -> None:
    if CALLBACKS in celery.amqp.queues.consume_from:
        parts.follow(_renew).start()


def _renew(settings: Settings) -> None:
    """The next callback is delivered by another configuration."""
    newer = parts.renewed(settings)
    with _making:
        _wanted[:] = [newer]


@worker_shutting_down.connect
def _leave_the_rest(**_: Any) -> None:
    """SIGTERM: what is in the air gets its time, nothing more is begun."""
    for made in _made:
        made.stop()
