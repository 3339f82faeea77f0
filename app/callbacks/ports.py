"""What delivery needs from outside: a queue that notifies its workers, and a sender."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from app.callbacks.domain.callback import DeliveryReply, SignedCallback


class CallbackNotifier(Protocol):
    """Notifies callback workers of what is due. Used by many threads."""

    def room(self) -> int:
        """How many more messages their queue may hold; 0 also while Redis does not answer. Never raises."""

    def ring(self, callback_ids: Sequence[str]) -> Sequence[str]:
        """Publish a message for each; returns those it could not publish, which the feeder finds. Never raises."""


class NoCallbackNotifier:
    """Notifies nobody: the leader's feeder finds what is due within a second."""

    def room(self) -> int:
        """None."""
        return 0

    def ring(self, callback_ids: Sequence[str]) -> Sequence[str]:
        """Publishes nothing."""
        return callback_ids


class CallbackSender(Protocol):
    """Sends callbacks to their receivers. Used by many threads."""

    def send(self, callback: SignedCallback) -> DeliveryReply:
        """Send it and return the reply. Never raises for what a receiver does."""

    def close(self) -> None:
        """Close what is kept open between callbacks."""
