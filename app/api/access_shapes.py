"""What the administration of access takes and answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from app.api.shapes import Shape, Time
from app.submission.bodies import Body, Duration, Instant, Object, PriorityName

Texts = Annotated[list[str], Field(fail_fast=True)]
Team = Annotated[str, Field(min_length=1, max_length=40)]
Limits = Annotated[
    dict[str, Any],
    Field(
        fail_fast=True,
        description="rpm, most_waiting, tokens_per_day, tokens_per_month, money_per_day, money_per_month, currency, "
        "over_budget (refuse or wait), order (arrival or deadline), store, retention_seconds. What is left out is not "
        "limited.",
    ),
]


class ClientChange(Body):
    """What may be changed of a client."""

    weight: float | None = Field(None, description="Its share of each quota, against others'.")
    granted_priority: PriorityName | None = Field(
        None, description="Up to this its priorities count for others."
    )
    team: Team | None = None
    administers: Team | None = Field(None, description="The team whose clients it may manage.")
    limits: Limits | None = None


class ClientBody(ClientChange):
    """A client to add."""

    id: str = Field(min_length=1, max_length=40, description="a-z, 0-9 and -.")


class KeyBody(Body):
    """An API key to make."""

    scopes: Texts = Field(default_factory=lambda: ["*"], min_length=1, max_length=20)
    expires_at: Instant | None = None
    name: str | None = None
    user: str | None = Field(
        None, description="Who will hold it; from the administrator of a team it becomes TEAM/NAME."
    )


class RotateBody(Body):
    """How to rotate."""

    overlap: Annotated[Duration | None, Field(description="How long the old one stays valid; 24 h.")] = None


class PolicyBody(Body):
    """A policy: see docs/access.md."""

    id: str | None = None
    effect: Literal["allow", "deny"]
    principal: Texts | None = None
    resource: Texts | None = None
    action: Texts | None = None
    condition: Object | None = None
    description: str | None = None


class ReplayBody(Body):
    """Which callbacks to deliver again."""

    since: Instant = Field(description="All that were given up since.")


class Client(Shape):
    """A client, without its secrets."""

    id: str
    object: Literal["client"]
    weight: float
    granted_priority: Literal["high", "normal", "low"]
    is_admin: bool
    team: str | None
    administers: str | None
    limits: dict[str, Any]
    created_at: Time


class NewClient(Client):
    """A client at the only moment when its secrets are known."""

    api_key: str
    callback_secret: str


class ClientList(Shape):
    """All clients that the caller may manage."""

    object: Literal["list"]
    data: list[Client]


class ApiKey(Shape):
    """An API key, without itself."""

    id: str
    object: Literal["api_key"]
    name: str | None
    user: str | None
    hint: str = Field(description="Its last four characters.")
    scopes: list[str]
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None


class NewApiKey(ApiKey):
    """An API key at the only moment when it is known."""

    api_key: str


class ApiKeyList(Shape):
    """A client's keys, oldest first."""

    object: Literal["list"]
    data: list[ApiKey]


class Secret(Shape):
    """A callback secret at the only moment when it is known."""

    object: Literal["callback_secret"]
    callback_secret: str


class Policy(Shape):
    """A policy."""

    id: str
    object: Literal["policy"]
    document: dict[str, Any]
    created_at: Time


class PolicyList(Shape):
    """All policies."""

    object: Literal["list"]
    data: list[Policy]


class Gone(Shape):
    """Something that is gone."""

    id: str
    deleted: bool


class AuditEntry(Shape):
    """One call or administrative act."""

    number: int | None = Field(description="Its place in the chain; null: not yet linked.")
    digest: str | None
    at: Time
    action: str
    client_id: str
    team: str
    user: str
    key_id: str
    address: str
    model: str
    task_id: str
    request_id: str
    status: int
    duration_ms: int
    details: str


class AuditCheck(Shape):
    """Whether the chain holds."""

    holds: bool
    entries: int
    unlinked: int
    fault: str | None
    digest: str = Field(
        description="The chain's end: keep it elsewhere to prove later that nothing was cut off."
    )


class DeadLetter(Shape):
    """A callback that was given up."""

    id: str
    object: Literal["callback"]
    client_id: str
    task_id: str | None
    batch_id: str | None
    type: str
    url: str
    tries: int
    reason: str | None
    created_at: Time
    failed_at: Time


class DeadLetterList(Shape):
    """Callbacks that were given up, newest first."""

    object: Literal["list"]
    data: list[DeadLetter]
    has_more: bool


class Replayed(Shape):
    """How many are delivered again."""

    replayed: int
