"""Dead letters: see them, and send them again, one or all since an instant.

A replay is a new round of tries with the same `webhook-id`. It needs no message: the feeder rings what is due
within a second; `bell` makes it at once.
"""

from __future__ import annotations

from app.callbacks.ports import CallbackNotifier
from app.callbacks.store import dead_letters
from app.callbacks.store.dead_letters import DeadLetterRow
from app.platform.database import Database
from app.platform.ports import Clock

CHUNK = 1000  # dead letters of one transaction


class DeadLetters:
    """Dead letters of one client, or of all for an operator (`client_id` None)."""

    def __init__(self, database: Database, bell: CallbackNotifier, clock: Clock) -> None:
        self._database = database
        self._bell = bell
        self._clock = clock

    def list_dead(
        self, client_id: str | None, *, before_seq: int | None = None, limit: int = 100
    ) -> list[DeadLetterRow]:
        """Newest first; the next page is what stands before the last one's `seq`."""
        return self._database.read(
            lambda conn: dead_letters.list_dead(conn, client_id, before_seq=before_seq, limit=limit)
        )

    def place(self, client_id: str | None, callback_id: str) -> int | None:
        """The `seq` of a callback, to go on listing from; None: this client has none of that id."""
        return self._database.read(lambda conn: dead_letters.place_of(conn, client_id, callback_id))

    def replay(self, client_id: str | None, callback_id: str) -> bool:
        """Send one again. False: there is no such dead letter of this client."""
        now = self._clock.now()
        found = self._database.write(lambda conn: dead_letters.replay(conn, client_id, callback_id, now))
        if found:
            self._bell.ring([callback_id])
        return found

    def replay_since(self, client_id: str | None, since: float) -> int:
        """Send all again that were given up since an instant (Unix seconds); gives back how many."""
        now, replayed = self._clock.now(), 0
        while count := self._database.write(
            lambda conn: dead_letters.replay_since(conn, client_id, since, now, CHUNK)
        ):
            replayed += count
        return replayed
