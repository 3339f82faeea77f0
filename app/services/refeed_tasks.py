"""Give tasks back to the feeder whose messages are gone, however often the database has to be asked."""

from __future__ import annotations

from collections.abc import Iterable

from app.db import feeding
from app.db.database import Database
from app.services.ports import Reservoir


class RefeedTasks:
    """What Redis told of once, kept until the database knows. For one thread."""

    def __init__(self, database: Database, reservoir: Reservoir) -> None:
        self._database = database
        self._reservoir = reservoir
        self._gone: set[str] = set()

    def refeed(self, task_ids: Iterable[str]) -> None:
        """Feed these again, and those before them that could not be written down.

        Raises DatabaseUnreachable; call it again then, if only with none.
        """
        self._gone.update(task_ids)
        if self._gone:
            self._database.write(lambda conn: feeding.unfeed(conn, sorted(self._gone)))
            self._gone.clear()
            self._reservoir.ring()
