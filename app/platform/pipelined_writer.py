"""Work that goes on behind whoever gives it, one piece at a time: the next chunk is read while the last is stored."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future


class PipelinedWriter:
    """Not for several threads. Whoever is done, or gives up, settles."""

    def __init__(self) -> None:
        self._pending: Future[None] | None = None

    def do(self, work: Callable[[], object]) -> None:
        """Begin a piece of work once the one before has ended. Raises what that one raised: nothing begins then."""
        self.settle()
        self._pending = pending = Future[None]()
        threading.Thread(target=_run, args=(work, pending), name="one-behind", daemon=True).start()

    def settle(self) -> None:
        """Wait until nothing is under way. Raises what the last piece raised, once."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def _run(work: Callable[[], object], pending: Future[None]) -> None:
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
        pending.set_exception(error)
    else:
        pending.set_result(None)
