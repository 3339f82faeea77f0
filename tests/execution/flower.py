"""What Flower would hear: every event, by task."""

import threading
from typing import Any, Self

from celery import Celery

from tests.stack import wait_until


class Flower:
    """Listens with Celery's own receiver, which is Flower's, in a thread."""

    def __init__(self, celery: Celery) -> None:
        self.heard: dict[str, list[dict[str, Any]]] = {}
        self._celery = celery
        self._thread = threading.Thread(target=self._listen)

    def kinds(self, task_id: str) -> list[str]:
        return [event["type"] for event in self.heard.get(task_id, [])]

    def wait_for(self, task_id: str, kind: str) -> dict[str, Any]:
        """The first event of a kind."""

        def found() -> dict[str, Any] | None:
            return next((event for event in self.heard.get(task_id, []) if event["type"] == kind), None)

        event: dict[str, Any] = wait_until(found, what=f"{kind} among {self.kinds(task_id)}")
        return event

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self.heard.get("worker-heartbeat"), what="a worker's heartbeat")
        return self

    def __exit__(self, *_: object) -> None:
        self._receiver.should_stop = True  # seen within a second
        self._thread.join(60)

    def _hear(self, event: dict[str, Any]) -> None:
        self.heard.setdefault(event.get("uuid") or event["type"], []).append(event)

    def _listen(self) -> None:
        with self._celery.connection_for_read() as connection:
            self._receiver = self._celery.events.Receiver(connection, handlers={"*": self._hear})
            self._receiver.capture(wakeup=False)
