"""The life of a worker process, hung on Celery's own: refused, made, started, drained, closed.

A process that consumes key queues calls upstreams and gets the parts for that; one that consumes callbacks alone
does not.

Two remote commands answer differently. `active_queues` also names the backlog queues, which no worker consumes, so
that Flower shows their lengths. `revoke` cancels the row: the row decides what runs, not this worker.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import structlog
from celery import bootsteps, concurrency
from celery.concurrency.thread import TaskPool
from celery.signals import worker_init, worker_ready, worker_shutdown, worker_shutting_down
from celery.utils.functional import maybe_list
from celery.worker import control
from kombu.entity import Exchange, Queue

from app.composition.worker import FollowKeys, WorkerProcess, build_worker, quick_scripts, refuse_queues
from app.execution.celery_app import CONSUMED_STEPS, TRANSPORT_OPTIONS
from app.execution.revoke_task import RevokeTasks
from app.pacing.store.backlog_publisher import BacklogQueues
from app.platform.domain.names import KEY
from app.settings import ConfigError
from app.settings.topology import started_regions
from workers.celery import celery, parts
from workers.consumer import GatherEvents

log = structlog.get_logger("penstock.worker")

_made: list[WorkerProcess] = []
_following: list[FollowKeys] = []


def process() -> WorkerProcess:
    """This process's parts. There are none where no key queue is consumed."""
    return _made[0]


def _tell_flower_of_revoke(task_id: str) -> None:
    try:
        with celery.events.default_dispatcher() as events:
            events.send("task-revoked", uuid=task_id, terminated=False, signum=None, expired=False)
    except Exception as error:  # noqa: BLE001  # Flower's view is no reason to stop
        log.warning("could not notify Flower of a revoke", task_id=task_id, error=type(error).__name__)


vitals = parts.keep_vitals()
revoking = RevokeTasks(parts.database, parts.publisher, parts.clock, _tell_flower_of_revoke)


@worker_init.connect
def _make(sender: Any, **_: Any) -> None:
    """Refuse what must not be run, and make the parts. Celery ignores exceptions here, but not an exit."""
    queues = list(celery.amqp.queues.consume_from)
    problem = refuse_queues(parts.settings, queues) or _wrong_pool(sender)
    if problem is not None:
        sys.exit(f"worker: {problem}")
    try:
        parts.show_meters()
    except ConfigError as error:
        sys.exit(f"worker: {error}")
    celery.conf.broker_transport_options = {**TRANSPORT_OPTIONS, "priority_steps": CONSUMED_STEPS}
    if any(name.startswith(KEY) for name in queues):
        try:
            _made.append(build_worker(parts, queues, sender.concurrency))
            _following.append(FollowKeys(parts, _made[0], queues, started_regions(os.environ)))
        except ConfigError as error:
            sys.exit(f"worker: {error}")


def _wrong_pool(sender: Any) -> str | None:
    pool = concurrency.get_implementation(sender.pool_cls)
    return None if issubclass(pool, TaskPool) else "it needs the threads pool: start it with -P threads"


@worker_ready.connect
def _start(sender: Any, **_: Any) -> None:
    revoking.start()
    for following in _following:
        following.consumer = sender
        parts.follow(following.take, _made[0].refresh).start()
    if _made:
        vitals.start()
    for made in _made:
        made.start()


@worker_shutting_down.connect
def _drain(**_: Any) -> None:
    for made in _made:
        made.begin_drain()


class Drain(bootsteps.StartStopStep):
    """Also without a signal, as when Celery gives up on its broker: before the pool is waited for."""

    def close(self, _worker: Any) -> None:
        """Take nothing more."""
        _drain()


celery.steps["worker"].add(Drain)
celery.steps["consumer"].add(GatherEvents)


@worker_shutdown.connect
def _close(**_: Any) -> None:
    revoking.close()
    for made in _made:
        made.close()


TASK = "task_"

_backlogs = BacklogQueues(quick_scripts(parts.settings))
_consumed = control.active_queues
_discard = control.revoke


@control.inspect_command()
def active_queues(state: Any) -> list[dict[str, Any]]:
    """List the task queues a worker consumes, and every backlog queue."""
    consumed: list[dict[str, Any]] = _consumed(state)
    return consumed + [_shown(name) for name in _backlogs.names()]


def _shown(name: str) -> dict[str, Any]:
    """A queue as Celery shows it, with every field: Flower's page of a worker reads them."""
    queue = Queue(name, Exchange(""), routing_key=name)  # type: ignore[no-untyped-call]
    return {**queue.as_dict(recurse=True), "backlog": True}  # type: ignore[no-untyped-call]


@control.control_command(variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
def revoke(
    state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **more: Any
) -> dict[str, Any]:
    """Cancel tasks by id (or list of ids)."""
    ids = set(maybe_list(task_id) or [])
    ours = {name for name in ids if str(name).startswith(TASK)}
    revoking.ask(sorted(ours))
    if ids - ours:
        answer: dict[str, Any] = _discard(state, list(ids - ours), terminate, signal, **more)
        return answer
    return {"ok": f"tasks {', '.join(sorted(ours))} will be cancelled"}


@control.control_command(
    variadic="task_id", args=[("signal", str)], signature="<signal> [id1 [id2 [... [idN]]]]"
)
def terminate(state: Any, signal: Any, task_id: Any, **more: Any) -> dict[str, Any]:
    """Cancel tasks by id; calls in flight finish."""
    return revoke(state, task_id, terminate=True, signal=signal, **more)  # type: ignore[no-any-return]
