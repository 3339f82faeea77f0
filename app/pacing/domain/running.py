"""A call that runs according to the database."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunningCall:
    """What a permit must say of a call that runs: it is put back after Redis was lost."""

    task_id: str
    release: int
    worker: str
    key: str
    upstream: str
    account: str
    upstream_model: str
    quotas: tuple[str, ...]
    estimate: int
