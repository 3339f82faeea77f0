"""Upstreams across reloads: a call is made by the newest configuration that knows its key."""

from __future__ import annotations

from app.tasks.domain.attempt import Claimed
from app.upstreams.call_upstream import Upstreams
from app.upstreams.domain.reply import Reply, TransportError
from app.upstreams.held_secrets import HeldSecrets
from app.upstreams.upstream_stream import PassOn


class UpstreamGenerations:
    """Fits RunTask's port. Calls in flight end in the configuration in which they began."""

    def __init__(self, first: Upstreams, held: HeldSecrets) -> None:
        """`held`: the secrets that calls by `first` carry."""
        self.held = held
        held.tell(first.take_secrets)
        self._all: tuple[Upstreams, ...] = (
            first,
        )  # the newest first; reloads are rare, and an old one holds nothing open

    def renew(self, newer: Upstreams, held: HeldSecrets) -> None:
        """Make new calls by another configuration."""
        older = self._all[0]
        self.held = held
        held.tell(newer.take_secrets)
        self._all = (newer, *self._all)
        older.close()

    def call(self, claimed: Claimed, send_by: float) -> Reply | TransportError:
        """See Upstreams."""
        return self._of(claimed).call(claimed, send_by)

    def stream(self, claimed: Claimed, send_by: float, pass_on: PassOn) -> Reply | TransportError:
        """See Upstreams."""
        return self._of(claimed).stream(claimed, send_by, pass_on)

    def wire(self) -> tuple[int, int]:
        """Calls begun in this process's life, and connections opened for them."""
        counts = [one.wire() for one in self._all]
        return sum(calls for calls, _ in counts), sum(opened for _, opened in counts)

    def abort(self) -> None:
        """End every call in flight, and refuse those that have not sent yet."""
        for one in self._all:
            one.abort()

    def close(self) -> None:
        """Close what is kept open between calls."""
        for one in self._all:
            one.close()

    def _of(self, claimed: Claimed) -> Upstreams:
        permit = claimed.permit
        self.held.before_call(permit.key)
        return next((one for one in self._all if one.knows(permit.key, permit.upstream)), self._all[0])
