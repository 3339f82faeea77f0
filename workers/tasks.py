"""The Celery task that runs a released task, and how its outcome appears in Flower."""

from __future__ import annotations

from typing import Any

from celery.exceptions import Ignore, Retry

from app.execution.celery_app import RUN_TASK
from workers.celery import celery
from workers.lifecycle import process


class TaskFailed(Exception):
    """A task failed. Its text is an error code of ours: no prompt, no secret, no word of an upstream."""


class CallFailed(Exception):
    """A call failed and its task will run again. Its text is an outcome."""


@celery.task(name=RUN_TASK, bind=True, throws=(TaskFailed,))
def run_task(self: Any, task_id: str, **_facts: Any) -> None:
    """Run one released task. `_facts` are only shown in Flower."""
    ran = process().runner.run(task_id, self.request.get("traceparent") or "")
    if ran.kind == "failed":
        raise TaskFailed(ran.reason)
    if ran.kind == "again":
        raise Retry(ran.reason, CallFailed(ran.reason))
    if ran.kind == "cancelled":
        self.send_event("task-revoked", terminated=True, signum=None, expired=False)
    if ran.kind != "succeeded":
        raise Ignore
