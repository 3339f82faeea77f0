"""How long a worker waits between tries at reaching Redis again."""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.worker.consumer import Consumer

# Celery waits 2 s longer before each try, up to 32 s: after an outage of a minute the work would stand still for as
# long as 14 s more. A try is one connection; a worker has nothing else to do meanwhile.
START_SECONDS = 0.5
STEP_SECONDS = 0.5
MOST_SECONDS = 2.0


class PromptConsumer(Consumer):
    """Celery's consumer, back within two seconds of Redis itself."""

    def ensure_connected(self, conn: Any) -> Any:
        """`conn`, connected; tries until it is, or until the worker is told to end."""
        conn.ensure_connection = partial(
            conn.ensure_connection,
            interval_start=START_SECONDS,
            interval_step=STEP_SECONDS,
            interval_max=MOST_SECONDS,
        )
        return super().ensure_connected(conn)
