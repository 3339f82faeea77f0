"""Messages for callback workers: an id each, on the Celery queue `callbacks`.

A message only notifies. A duplicate is harmless (the claim is a compare-and-set); the leader's feeder repeats a lost
one, and publishes what did not fit while the queue was full.
"""

from __future__ import annotations

from collections.abc import Sequence

from celery import Celery

from app.platform.celery_messages import MessageTemplate
from app.platform.domain.errors import RedisUnreachable
from app.platform.domain.names import CALLBACKS
from app.platform.ports import Clock
from app.platform.redis_scripts import Scripts

DELIVER_CALLBACK = "penstock.deliver_callback"
MOST_QUEUED = 5000  # messages, about 5 MB; the rest wait as rows, which cost Redis nothing
_CHUNK = 200
_PAUSE = 1.0  # seconds without another attempt after Redis failed


class RedisCallbackNotifier:
    """Implements the CallbackNotifier port. Used by many threads; `_silent_until` may be set by any, without a lock."""

    def __init__(
        self, scripts: Scripts, celery: Celery, clock: Clock, *, most_queued: int = MOST_QUEUED
    ) -> None:
        self._scripts = scripts
        self._clock = clock
        self._most_queued = most_queued
        self._silent_until = 0.0
        self._template = MessageTemplate(celery, DELIVER_CALLBACK)

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

    def notify(self, callback_ids: Sequence[str]) -> Sequence[str]:
        """Publish a message for each; returns those for which there was no room or no Redis."""
        if not callback_ids:
            return ()
        wanted = callback_ids[: self.room()]
        for start in range(0, len(wanted), _CHUNK):
            if not self._push(wanted[start : start + _CHUNK]):
                return callback_ids[start:]
        return callback_ids[len(wanted) :]

    def _push(self, callback_ids: Sequence[str]) -> bool:
        try:
            messages = (self._template.encode(one, CALLBACKS, {}) for one in callback_ids)
            self._scripts.command("LPUSH", CALLBACKS, *messages)
        except RedisUnreachable:
            self._silent_until = self._clock.monotonic() + _PAUSE
            return False
        return True
