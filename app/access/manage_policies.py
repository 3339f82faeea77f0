"""Policies: store, list, remove, check; and the book by which each process decides."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from sqlalchemy import Connection, delete, select

from app.access.domain.policy import (
    AccessPolicy,
    CallFacts,
    Decision,
    Effect,
    evaluate,
    forbids_place,
    names_places,
    parse_policy,
)
from app.access.manage_clients import check_name
from app.access.store.access_tables import policy
from app.platform.database import Database
from app.platform.dialects import insert_or
from app.platform.domain.errors import DatabaseUnreachable, Invalid, NotFound
from app.platform.ports import Clock
from app.tasks.domain.task import new_id


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """One statement, as it was written."""

    id: str
    document: str  # JSON text
    created_at: float


def read_policies(conn: Connection) -> list[StoredPolicy]:
    """All policies, in order of creation."""
    rows = conn.execute(select(policy.c.id, policy.c.document, policy.c.created_at).order_by(policy.c.seq))
    return [StoredPolicy(*row) for row in rows]


def write_policy(conn: Connection, policy_id: str, document: str, now: float) -> None:
    """Insert a policy, or replace the one with that id."""
    insert = insert_or(conn, policy).values(id=policy_id, document=document, created_at=now)
    conn.execute(insert.on_conflict_do_update(index_elements=["id"], set_={"document": document}))


def delete_policy(conn: Connection, policy_id: str) -> bool:
    """Delete a policy; False: there was none."""
    return conn.execute(delete(policy).where(policy.c.id == policy_id)).rowcount > 0


log = structlog.get_logger("penstock.access")

CACHE_SECONDS = 5.0  # until a changed policy applies in every process
_LARGEST = 64 * 1024  # bytes of one document


_NEVER: tuple[float, tuple[AccessPolicy, ...]] = (-1e9, ())


@dataclass(frozen=True, slots=True)
class ServingPlace:
    """One route of a model: where it leads, and the quota that only this route uses."""

    model: str
    upstream: str
    region: str
    quota: str


class PolicyBook:
    """The policies in force, read again every few seconds. Fails closed: without a database it decides nothing.

    Used by all request threads. What was read is replaced whole; the lock lets one thread at a time read again.
    """

    def __init__(self, database: Database, clock: Clock, default: Effect) -> None:
        self._database = database
        self._clock = clock
        self._default: Effect = default
        self._known = _NEVER
        self._lock = threading.Lock()

    @property
    def decisive(self) -> bool:
        """Whether anything could be denied: without policies, and open by default, no facts need to be gathered.

        Raises DatabaseUnreachable.
        """
        return bool(self._policies()) or self._default != "allow"

    def decide(self, facts: CallFacts) -> Decision:
        """Decide whether a call is allowed. Raises DatabaseUnreachable."""
        return evaluate(self._policies(), facts, self._default)

    def forbidden_places(
        self, clients: Mapping[str, str], places: Iterable[ServingPlace]
    ) -> dict[str, dict[str, str]]:
        """The quotas whose routes a client's waiting tasks may not use, with the deciding statement.

        `clients`: teams by client; `places`: all routes. Raises DatabaseUnreachable.
        """
        policies, known = self._policies(), list(places)
        found: dict[str, dict[str, str]] = {}
        for client, team in clients.items() if any(map(names_places, policies)) else ():
            for place in known:
                facts = CallFacts(
                    at=self._clock.now(),
                    action="tasks:write",
                    client=client,
                    team=team,
                    model=place.model,
                    upstreams=frozenset({place.upstream}),
                    regions=frozenset({place.region}),
                )
                rule = forbids_place(policies, facts, self._default)
                if rule is not None:
                    found.setdefault(client, {})[place.quota] = rule
        return found

    def decide_as_last_known(self, facts: CallFacts) -> Decision:
        """The same, by the policies last read if the database is away: for pages that show the outage.

        Raises DatabaseUnreachable when none were ever read.
        """
        try:
            return self.decide(facts)
        except DatabaseUnreachable:
            if self._known is _NEVER:
                raise
            return evaluate(self._known[1], facts, self._default)

    def _policies(self) -> tuple[AccessPolicy, ...]:
        (until, known), now = self._known, self._clock.monotonic()
        if now < until <= now + CACHE_SECONDS:
            return known
        with self._lock:
            stored = self._database.read(read_policies)
            found = tuple(parse_policy(orjson.loads(item.document), item.id) for item in stored)
            self._known = (self._clock.monotonic() + CACHE_SECONDS, found)
        return found


def check_policy(document: Any, name: str = "") -> AccessPolicy:
    """Parse a document. Raises Invalid that names the field."""
    try:
        return parse_policy(document, name)
    except ValueError as error:
        param = str(error).partition(":")[0]
        raise Invalid(str(error), param=param, code="invalid_policy") from None


def put_policy(
    database: Database, clock: Clock, document: Mapping[str, Any], zones: Collection[str] | None = None
) -> StoredPolicy:
    """Store a policy, replacing the one with its id. `zones`: the configured ones, if known.

    Raises Invalid, DatabaseUnreachable.
    """
    now = clock.now()
    read = check_policy(document)
    _check_zones(read, zones)
    if len(read.id) > 80 or not read.id.isprintable():
        raise Invalid("id: at most 80 printable characters", param="id", code="invalid_value")
    policy_id = read.id or new_id("pol", now)
    text = orjson.dumps({**document, "id": policy_id}).decode()
    if len(text) > _LARGEST:
        raise Invalid("policy: larger than 64 KiB", param="policy", code="invalid_policy", status=413)
    database.write(lambda conn: write_policy(conn, policy_id, text, now))
    return StoredPolicy(policy_id, text, now)


def _check_zones(policy: AccessPolicy, known: Collection[str] | None) -> None:
    """An unknown zone contains nobody: a deny that names it would silently deny nobody."""
    wanted = policy.condition.zones or frozenset()
    missing = sorted(wanted - set(known)) if known is not None else []
    if missing:
        there = f"there are {', '.join(sorted(known or ()))}" if known else "none are configured"
        message = f"condition.zone.in: [access] zones of penstock.toml has no {missing[0][:40]!r}; {there}"
        raise Invalid(message, param="condition.zone.in", code="invalid_policy")


def check_new_name(database: Database, name: str) -> None:
    """Refuse a team administrator's new client if a policy allows more by its name.

    Raises Forbidden, DatabaseUnreachable.
    """
    check_name([parse_policy(orjson.loads(item.document), item.id) for item in list_policies(database)], name)


def list_policies(database: Database) -> list[StoredPolicy]:
    """All policies."""
    return database.read(read_policies)


def remove_policy(database: Database, policy_id: str) -> None:
    """Delete a policy. Raises NotFound, DatabaseUnreachable."""
    if not database.write(lambda conn: delete_policy(conn, policy_id)):
        raise NotFound("no such policy", param="policy_id", code="policy_not_found")
