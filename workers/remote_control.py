"""Celery's remote commands that need another answer here.

`active_queues` also names the backlog queues, which no worker consumes, so that Flower shows their lengths.
`revoke` cancels the row. It does not make this worker discard the id: the row decides what runs.
"""

from __future__ import annotations

from typing import Any

from celery.utils.functional import maybe_list
from celery.worker import control
from kombu.entity import Exchange, Queue

from app.composition.worker import quick_scripts
from app.pacing.store.backlog_publisher import BacklogQueues
from workers.celery import parts
from workers.lifecycle import revoking

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
