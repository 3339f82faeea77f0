"""What delivering callbacks needs from outside: a queue to notify its workers, and a sender."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from app.callbacks.domain.callback import DeliveryReply, SignedCallback


class CallbackNotifier(Protocol):
    """Tells callback workers what is due."""

    def room(self) -> int:
        """How many more messages their queue may hold; 0 also while Redis does not answer. Never raises."""

    def ring(self, callback_ids: Sequence[str]) -> Sequence[str]:
        """Publish a message for each; gives back those it could not. The feeder finds these. Never raises."""


class NoCallbackNotifier:
    """Rings nobody: the leader's feeder finds what is due within a second."""

    def room(self) -> int:
        """None."""
        return 0

    def ring(self, callback_ids: Sequence[str]) -> Sequence[str]:
        """Publishes nothing."""
        return callback_ids


class CallbackSender(Protocol):
    """Carries callbacks to their receivers."""

    def send(self, parcel: SignedCallback) -> DeliveryReply:
        """Send it and give back what came of it. Never raises for what a receiver does."""

    def close(self) -> None:
        """Close what is kept open between callbacks."""
