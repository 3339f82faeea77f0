"""What follows, outside the database, when identical tasks have joined, taken over or been answered."""

from __future__ import annotations

from app.caching.store.coalesce_join import Settled
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
from app.tasks.ports import BacklogPublisher
from app.tasks.store.feeding import mark_unqueued


def tell_joined(database: Database, reservoir: BacklogPublisher, settled: Settled) -> None:
    """Void places, send leaders to the front, tell who waits. Never raises: the reconciler puts right what is left.

    A leader that has to hurry loses its place first and is given to the feeder then: in the other order its new
    place would be lost.
    """
    away = [*settled.replaced, *settled.hurried]
    if away:
        reservoir.forget(away)
    if settled.hurried:
        try:
            database.write(lambda conn: mark_unqueued(conn, settled.hurried))
        except DatabaseUnreachable:
            return
    if settled.ended:
        reservoir.announce(settled.ended)
    elif settled.hurried or settled.released:
        reservoir.ring()
