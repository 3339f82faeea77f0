"""Clients' shares of the upstreams' capacity, as they last stood in the database."""

from __future__ import annotations

from collections.abc import Mapping

from app.access.store import clients
from app.pacing.domain.fairness import ClientShare
from app.platform.database import Database
from app.tasks.domain.task import Priority


class KnowShares:
    """Read by the leader's loop of that name, looked up by its turns, which wait for no database.

    May be used by many threads: a whole mapping is exchanged at once and never changed afterwards.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: Mapping[str, ClientShare] = {}

    def known(self) -> Mapping[str, ClientShare]:
        """What the last `look` found, by client."""
        return self._known

    def look(self) -> None:
        """Read them again. Raises DatabaseUnreachable: the last ones stay in force."""
        rows = self._database.read(clients.list_clients)
        self._known = {r.id: ClientShare(r.weight, Priority(r.granted_priority).step) for r in rows}
