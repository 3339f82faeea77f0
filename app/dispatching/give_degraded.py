"""Answer tasks that allow it by their model's configured text, once they have waited as long as was told for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import orjson

from app.dispatching.domain.degraded import degraded_completion
from app.dispatching.store.degrading import degrade
from app.platform.database import Database
from app.platform.ports import Clock
from app.tasks.ports import BacklogPublisher

_AT_ONCE = 500  # tasks ended in one transaction


class GiveDegraded:
    """One of the leader's chores."""

    def __init__(
        self,
        database: Database,
        reservoir: BacklogPublisher,
        clock: Clock,
        texts: Mapping[str, str],
        ring: Callable[[Sequence[str]], object] = lambda _callbacks: None,
    ) -> None:
        """`texts` by model; `ring` tells who delivers callbacks."""
        self._database = database
        self._reservoir = reservoir
        self._clock = clock
        self._texts = texts
        self._ring = ring

    def tick(self) -> int:
        """Answer one page; gives back how many. Raises DatabaseUnreachable."""
        if not self._texts:
            return 0
        now = self._clock.now()

        def answer(task_id: str, model: str) -> str | None:
            text = self._texts.get(model)
            if text is None:
                return None
            return orjson.dumps(degraded_completion(task_id, model, text, now)).decode()

        ended, callbacks = self._database.write(lambda conn: degrade(conn, now, _AT_ONCE, answer))
        if ended:
            self._reservoir.forget(ended)
            self._reservoir.announce(ended)
        if callbacks:
            self._ring(callbacks)
        return len(ended)
