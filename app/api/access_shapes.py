"""Request and response models for access administration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from app.submission.bodies import Body, Duration, Instant, Object, PriorityName
from app.tasks.views import Shape, Time

Texts = Annotated[list[str], Field(fail_fast=True)]
Team = Annotated[str, Field(min_length=1, max_length=40)]
Limits = Annotated[
    dict[str, Any],
    Field(
        fail_fast=True,
        description="rpm, most_waiting, tokens_per_day, tokens_per_month, money_per_day, money_per_month, currency, "
        "over_budget (refuse or wait), order (arrival or deadline), store, retention_seconds. Omitted "
        "fields are not limited.",
    ),
]


class ClientChange(Body):
    """The changeable fields of a client."""

    weight: float | None = Field(None, description="Its share of each quota, relative to other clients.")
    granted_priority: PriorityName | None = Field(
        None, description="The highest priority that counts in competition with other clients."
    )
    team: Team | None = None
    administers: Team | None = Field(None, description="The team whose clients it may manage.")
    limits: Limits | None = None


class ClientBody(ClientChange):
    """A client to add."""

    id: str = Field(min_length=1, max_length=40, description="a-z, 0-9, _ and -.")


class KeyBody(Body):
    """An API key to create."""

    scopes: Texts = Field(default_factory=lambda: ["*"], min_length=1, max_length=20)
    expires_at: Instant | None = None
    name: str | None = None
    user: str | None = Field(
        None, description="The holder of the key; stored as TEAM/NAME if set by a team administrator."
    )


class RotateBody(Body):
    """Options of a rotation."""

    overlap: Annotated[
        Duration | None, Field(description="How long the old one remains valid; default: 24 h.")
    ] = None


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
    """Which callbacks to replay."""

    since: Instant = Field(description="Callbacks given up at or after this time.")


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
    """A new client with its secrets, which are only shown once."""

    api_key: str
    callback_secret: str


class ClientList(Shape):
    """All clients that the caller may manage."""

    object: Literal["list"]
    data: list[Client]


class ApiKey(Shape):
    """An API key, without its secret."""

    id: str
    object: Literal["api_key"]
    name: str | None
    user: str | None
    hint: Annotated[str, Field(description="Its last four characters.")]
    scopes: list[str]
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None


class NewApiKey(ApiKey):
    """A new API key with its secret, which is only shown once."""

    api_key: str


class ApiKeyList(Shape):
    """A client's keys, oldest first."""

    object: Literal["list"]
    data: list[ApiKey]


class Secret(Shape):
    """A new callback secret, which is only shown once."""

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
    """A deleted object."""

    id: str
    deleted: bool


class AuditEntry(Shape):
    """A call or an administrative action."""

    number: Annotated[
        int | None, Field(description="Its position in the hash chain; null if not linked yet.")
    ]
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
    """The result of verifying the hash chain."""

    holds: bool
    entries: int
    unlinked: int
    fault: str | None
    digest: Annotated[str, Field(description="The digest of the last entry.")]
    chain: Annotated[
        str, Field(description="FIRST..LAST:DIGEST. Keep it elsewhere, and give it as `since` later.")
    ]


class DeadLetter(Shape):
    """A callback whose delivery was given up."""

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
    """Undeliverable callbacks, newest first."""

    object: Literal["list"]
    data: list[DeadLetter]
    has_more: bool


class Replayed(Shape):
    """The number of replayed callbacks."""

    replayed: int
