"""Messages for callback workers: an id each, on the Celery queue `callbacks`.

A message is a doorbell. One too many is harmless (the claim is a compare-and-set), one that is lost is rung
again by the leader's feeder, which is also who rings when the queue is full.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from uuid import uuid4

import orjson
from celery import Celery

from app.platform.domain.errors import RedisUnreachable
from app.platform.domain.names import CALLBACKS
from app.platform.ports import Clock
from app.platform.redis_scripts import Scripts

DELIVER_CALLBACK = "penstock.deliver_callback"
MOST_QUEUED = 5000  # messages, about 5 MB; the rest wait as rows, which cost Redis nothing
_CHUNK = 200
_PAUSE = 1.0  # seconds in which Redis is not asked again after it failed


class RedisCallbackNotifier:
    """Implements the RedisCallbackNotifier port. May be used by many threads."""

    def __init__(
        self, scripts: Scripts, celery: Celery, clock: Clock, *, most_queued: int = MOST_QUEUED
    ) -> None:
        self._scripts = scripts
        self._clock = clock
        self._most_queued = most_queued
        self._silent_until = 0.0
        made = celery.amqp.as_task_v2("", DELIVER_CALLBACK, args=("",), ignore_result=True)
        self._headers = made.headers
        self._embed = made.body[2]

    def room(self) -> int:
        """How many more messages the queue may hold; 0 also while Redis does not answer."""
        if self._clock.monotonic() < self._silent_until:
            return 0
        try:
            queued = int(self._scripts.command("LLEN", CALLBACKS))
        except RedisUnreachable:
            self._silent_until = self._clock.monotonic() + _PAUSE
            return 0
        return max(0, self._most_queued - queued)

    def ring(self, callback_ids: Sequence[str]) -> Sequence[str]:
        """Publish a message for each; gives back those for which there was no room or no Redis."""
        if not callback_ids:
            return ()
        wanted = callback_ids[: self.room()]
        for start in range(0, len(wanted), _CHUNK):
            if not self._push(wanted[start : start + _CHUNK]):
                return callback_ids[start:]
        return callback_ids[len(wanted) :]

    def _push(self, callback_ids: Sequence[str]) -> bool:
        try:
            self._scripts.command("LPUSH", CALLBACKS, *map(self._envelope, callback_ids))
        except RedisUnreachable:
            self._silent_until = self._clock.monotonic() + _PAUSE
            return False
        return True

    def _envelope(self, callback_id: str) -> bytes:
        """A message as kombu's Redis transport writes it; `evt_...` is its Celery id, for finding it in Flower."""
        body = orjson.dumps([[callback_id], {}, self._embed])
        return orjson.dumps(
            {
                "body": b64encode(body).decode(),
                "content-encoding": "utf-8",
                "content-type": "application/json",
                "headers": {
                    **self._headers,
                    "id": callback_id,
                    "root_id": callback_id,
                    "argsrepr": repr((callback_id,)),
                },
                "properties": {
                    "correlation_id": callback_id,
                    "reply_to": "",
                    "delivery_mode": 2,
                    "delivery_info": {"exchange": "", "routing_key": CALLBACKS},
                    "priority": 0,
                    "body_encoding": "base64",
                    "delivery_tag": str(uuid4()),
                },
            }
        )
