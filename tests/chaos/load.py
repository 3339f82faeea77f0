"""The load: tasks submitted one by one, through either API, each until it is accepted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import urllib3

from tests.stack import Caller

TRICKLE_SECONDS = 0.5  # one is submitted at least so often, however much waits


class Load:
    """Submits `count` tasks, keeping about `ahead` more accepted than `sent()`; a repeat carries the same key."""

    def __init__(
        self, callers: Sequence[Caller], told: str, count: int, ahead: int, sent: Callable[[], int]
    ) -> None:
        self.accepted: list[str] = []
        self._callers = callers
        self._told = told
        self._count = count
        self._ahead = ahead
        self._sent = sent
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether all are accepted."""
        return not self._thread.is_alive()

    def finish(self, within: float) -> None:
        """Wait until all are accepted."""
        self._thread.join(within)
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self._one, self._paced()))

    def _paced(self) -> list[int]:
        return list(range(self._count))

    def _one(self, number: int) -> None:
        self._wait_turn(number)
        fields = {"prompt": f"Chaos {number}", "callback_url": f"{self._told}/told"}
        while not self._stop.is_set():
            for caller in self._callers:
                try:
                    answer = caller.call("POST", "/v1/tasks", fields, idempotency_key=f"chaos-{number}")
                except urllib3.exceptions.HTTPError:
                    continue
                if answer.status == 202:
                    self.accepted.append(str(answer.body["id"]))
                    return
                assert answer.status in (429, 503), answer
            self._stop.wait(0.2)

    def _wait_turn(self, number: int) -> None:
        until = time.monotonic() + 8 * TRICKLE_SECONDS  # eight submit
        while number >= self._sent() + self._ahead and time.monotonic() < until:
            if self._stop.wait(0.1):
                return
