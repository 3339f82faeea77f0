"""What operators are answered: the dispatcher, its quotas, keys and pauses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from app.api.shapes import Shape, Time
from app.submission.bodies import Body


class Limits(Shape):
    """Limits a minute, and at once; null: none is known."""

    rpm: float | None
    tpm: float | None
    concurrency: int | None


class HoldupShape(Shape):
    """Who holds work up."""

    holder: Literal["nobody", "us", "upstream", "limits", "operator"]
    words: str


class Leader(Shape):
    """The dispatcher that leads."""

    term: str
    beats: bool
    since: Time | None
    last_beat_at: Time | None
    ticks: int | None


class Worker(Shape):
    """A worker process; slots are null while Redis is away."""

    id: str
    host: str | None
    pid: int | None
    keys: list[str]
    slots: int | None
    held: int | None
    last_seen_at: Time


class Breaker(Shape):
    """A breaker that is not closed."""

    state: Literal["closed", "open", "half_open"]
    reason: str
    opens_at: Time


class Quota(Shape):
    """A quota: told, learned, in force, in use."""

    id: str
    kind: str
    name: str
    model: str
    upstreams: list[str]
    told: Limits
    learned: Limits
    in_force: Limits
    in_flight: int
    last_minute: int = Field(description="Calls let through in the last 60 s.")
    waiting: int = Field(description="Tasks of the models whose calls pass it.")
    braked_until: Time | None
    why: str
    brakes: int
    breaker: Breaker | None


class WaitingModel(Shape):
    """What waits for a model."""

    name: str
    waiting: int
    waiting_for: str | None
    opens_in: float | None = Field(description="Seconds; null: not known, or only an end can free it.")


class PauseShape(Shape):
    """Something that an operator has paused."""

    subject: str = Field(description="everything, model:NAME, client:NAME or key:NAME.")
    since: Time


class PauseList(Shape):
    """All pauses."""

    object: Literal["list"]
    data: list[PauseShape]


class PauseBody(Body):
    """What to pause: exactly one of them."""

    everything: Literal[True] | None = None
    model: str | None = Field(None, min_length=1, max_length=200)
    client: str | None = Field(None, min_length=1, max_length=40)
    key: str | None = Field(None, min_length=1, max_length=200, description="The name of a [[key]].")


class LastTest(Shape):
    """A test of a key."""

    finding: Literal["works", "refused", "not_offered", "no_answer"]
    at: Time
    seconds: float
    status: int | None
    words: str


class UpstreamKey(Shape):
    """A key of ours at an upstream, without its secret."""

    name: str
    object: Literal["upstream_key"]
    upstream: str
    account: str
    state: Literal["active", "paused", "disabled", "no_balance", "braked", "unused"]
    reason: str
    since: Time | None
    in_flight: int
    last_minute: int
    workers: int = Field(description="That consume its queue.")
    next_test_at: Time | None
    last_test: LastTest | None
    quotas: list[Quota]


class UpstreamKeyList(Shape):
    """All keys."""

    object: Literal["list"]
    data: list[UpstreamKey]


class KeyTest(LastTest):
    """What a test came to."""

    name: str
    object: Literal["key_test"]


class DispatcherShape(Shape):
    """The dispatcher as it stands."""

    object: Literal["dispatcher"]
    at: Time
    holdup: HoldupShape
    database: bool = Field(description="Whether it answers.")
    redis: bool
    leader: Leader
    waiting: int
    in_flight: int
    slots: int
    pauses: list[PauseShape]
    models: list[WaitingModel]
    quotas: list[Quota]
    keys: list[UpstreamKey]
    workers: list[Worker]
