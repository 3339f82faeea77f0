"""What a caller asks for: a prompt and its options. Well-formed, not yet checked against the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from app.caching.domain.caching import CacheParams
from app.platform.domain.times import DAY
from app.tasks.domain.task import Priority

Order = Literal["arrival", "deadline"]

DEFAULT_EXPIRY = DAY  # seconds
LONGEST_EXPIRY = 30 * DAY  # seconds; also how far ahead `run_at` may lie


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """One prompt to run."""

    messages: Sequence[Mapping[str, Any]]
    model: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)  # the rest of the upstream body
    priority: Priority | None = None
    callback_url: str | None = None
    expires_in: float | None = None  # seconds from when it may run
    run_at: float | None = None  # Unix seconds
    allow_degraded: bool | None = None  # whether a configured text may answer it; None: the batch's setting
    order: Order | None = None  # its order in the client's queue; None: the client's setting
    off_peak: bool = False  # only in its upstream's off-peak hours, or earlier if its deadline requires it
    metadata: Mapping[str, str] | None = None
    custom_id: str | None = None
    retry: str | None = None  # name of a retry policy
    cache: CacheParams | None = None
    stream: bool = False  # the answer is streamed to a waiting client
    store: bool | None = (
        None  # False: prompt and result are erased once delivered; None: the client's setting
    )


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """Options for all requests of a batch; a request's own option takes precedence."""

    model: str | None = None
    priority: Priority | None = None
    batch_size: int | None = None  # how many of its tasks may be in flight at once
    callback_url: str | None = None  # receives one callback, when the batch has ended
    expires_in: float = DEFAULT_EXPIRY  # seconds; no task of the batch outlives it
    metadata: Mapping[str, str] | None = None
    retry: str | None = None
    allow_degraded: bool | None = None  # None: the client's setting, else the model's
    order: Order | None = None
    run_at: float | None = None  # Unix seconds
    off_peak: bool = False
