"""Single submissions are known to Flower by id from the start; what the feeder publishes is known from its release."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from app.adapters.messages import Envelopes
from app.adapters.redis_scripts import Scripts
from app.domain.attempt import Message, Refusal
from app.domain.errors import RedisUnreachable
from app.services.ports import Reservoir

MOST_AT_ONCE = 20  # a larger submission is a batch, and Flower keeps only so many tasks


class AnnouncedReservoir:
    """A Reservoir that emits `task-sent` for what it accepts one by one. An event lost is no harm."""

    def __init__(self, inner: Reservoir, envelopes: Envelopes, scripts: Scripts) -> None:
        self._inner = inner
        self._envelopes = envelopes
        self._scripts = scripts

    def publish(self, messages: Sequence[Message], *, feeding: bool = False) -> Mapping[str, Refusal]:
        """Publish, then tell. See the port."""
        refused = self._inner.publish(messages, feeding=feeding)
        if not feeding and len(messages) <= MOST_AT_ONCE:
            self._tell(message for message in messages if message.task_id not in refused)
        return refused

    def forget(self, task_ids: Iterable[str]) -> None:
        """See the port."""
        self._inner.forget(task_ids)

    def announce(self, task_ids: Iterable[str]) -> None:
        """See the port."""
        self._inner.announce(task_ids)

    def ring(self) -> None:
        """See the port."""
        self._inner.ring()

    def _tell(self, accepted: Iterable[Message]) -> None:
        try:
            for message in accepted:
                channel, payload = self._envelopes.sent_event(message)
                self._scripts.command("PUBLISH", channel, payload)
        except RedisUnreachable:
            pass
