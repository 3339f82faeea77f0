"""A reload in a worker process: upstreams, policies, and the queues of keys that have come or gone.

A worker that was started without -Q consumes the queues of all keys and follows them; one that was started for
regions follows their keys; one that was told its queues keeps to those, less the ones that are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from app.composition.container import Container
from app.platform.domain.names import KEY, key_queue
from app.settings import ConfigError, Settings
from app.settings.topology import keys_in
from workers.process import WorkerProcess


class FollowKeys:
    """One for a worker process that consumes key queues."""

    def __init__(
        self, parts: Container, process: WorkerProcess, queues: Collection[str], regions: Collection[str] = ()
    ) -> None:
        """`regions`: those that it was started for."""
        self._parts = parts
        self._process = process
        self._queues = tuple(name for name in queues if name.startswith(KEY))
        self._followed = followed(parts.settings, self._queues, regions)
        self.consumer: Any = None  # Celery's, once it is there

    def take(self, settings: Settings) -> None:
        """Another configuration. Raises ConfigError; then everything stays as it was.

        1. What is gone is consumed no more. 2. Calls are made by the new one. 3. What has come is consumed: from the
        next report on the dispatcher releases to it.
        """
        wanted = wanted_queues(settings, self._queues, self._followed)
        if not wanted:
            raise ConfigError(
                str(settings.path), None, "no key of this worker is left", "stop the worker instead"
            )
        self._process.renew(self._parts.renewed(settings), wanted)
        for name in set(self._queues) - set(wanted):
            self.consumer.call_soon(self.consumer.cancel_task_queue, name)
        for name in set(wanted) - set(self._queues):
            self.consumer.call_soon(self.consumer.add_task_queue, name, exchange="penstock", routing_key=name)
        self._queues = wanted


Followed = Callable[[Settings], tuple[str, ...]]  # the queues that a configuration means for a worker


def followed(settings: Settings, queues: Sequence[str], regions: Collection[str]) -> Followed | None:
    """What a worker follows that began with these queues; None: it was told them by name, and keeps to them."""

    def of_regions(settings: Settings) -> tuple[str, ...]:
        return tuple(key_queue(name) for name in keys_in(settings, regions))

    kinds: tuple[Followed, ...] = (of_regions, all_queues) if regions else (all_queues,)
    return next((kind for kind in kinds if set(kind(settings)) == set(queues)), None)


def all_queues(settings: Settings) -> tuple[str, ...]:
    """The queues of all keys that a worker without a region may use."""
    return tuple(key_queue(name) for name in settings.open_keys)


def wanted_queues(settings: Settings, now: Sequence[str], followed: Followed | None) -> tuple[str, ...]:
    """What a worker is to consume."""
    if followed is not None:
        return followed(settings)
    known = {key_queue(key.name) for key in settings.keys}
    return tuple(name for name in now if name in known)
