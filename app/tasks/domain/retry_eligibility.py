"""Which tasks may be run again by hand: those of which another try could come to something else."""

from __future__ import annotations

from app.tasks.domain.task import Status

# The request itself was refused: it would be refused again.
FINAL = frozenset({"invalid_request", "content_filter", "context_length_exceeded", "response_too_large"})


def may_run_again(status: str, error_code: str | None, replaced_by: str | None = None) -> bool:
    """Whether a task that ended so may be run again; once, by a new task that takes its place."""
    if replaced_by is not None or status not in (Status.FAILED, Status.EXPIRED):
        return False
    return error_code not in FINAL
