"""Policies, as documents."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from sqlalchemy import Connection, delete, select

from app.access.domain.policy import AccessPolicy, CallFacts, Decision, Effect, evaluate, parse_policy
from app.access.manage_clients import check_name
from app.access.store.access_tables import policy
from app.platform.database import Database
from app.platform.dialects import insert_or
from app.platform.domain.errors import DatabaseUnreachable, Invalid, NotFound
from app.platform.ports import Clock
from app.tasks.domain.task import new_id


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """One statement, as it was given."""

    id: str
    document: str  # JSON text
    created_at: float


def read_policies(conn: Connection) -> list[StoredPolicy]:
    """All of them, in the order in which they were made."""
    rows = conn.execute(select(policy.c.id, policy.c.document, policy.c.created_at).order_by(policy.c.seq))
    return [StoredPolicy(*row) for row in rows]


def write_policy(conn: Connection, policy_id: str, document: str, now: float) -> None:
    """Add one, or replace the one of that id."""
    insert = insert_or(conn, policy).values(id=policy_id, document=document, created_at=now)
    conn.execute(insert.on_conflict_do_update(index_elements=["id"], set_={"document": document}))


def delete_policy(conn: Connection, policy_id: str) -> bool:
    """Delete one; False: there was none."""
    return conn.execute(delete(policy).where(policy.c.id == policy_id)).rowcount > 0


log = structlog.get_logger("penstock.access")

KEPT_SECONDS = 5.0  # until a changed policy is in force in every process
_LARGEST = 64 * 1024  # bytes of one document


_NEVER: tuple[float, tuple[AccessPolicy, ...]] = (-1e9, ())


class PolicyBook:
    """The policies in force, read again every few seconds. Fails closed: without a database nothing is decided."""

    def __init__(self, database: Database, clock: Clock, default: Effect) -> None:
        self._database = database
        self._clock = clock
        self._default: Effect = default
        self._known = _NEVER
        self._lock = threading.Lock()

    @property
    def decisive(self) -> bool:
        """Whether a decision could be no: without policies, and open by default, nobody need gather facts.

        Raises DatabaseUnreachable.
        """
        return bool(self._policies()) or self._default != "allow"

    def decide(self, facts: CallFacts) -> Decision:
        """May it be done? Raises DatabaseUnreachable."""
        return evaluate(self._policies(), facts, self._default)

    def decide_as_last_known(self, facts: CallFacts) -> Decision:
        """The same, by the policies read last where the database is away: for pages that say that it is.

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
        if now < until <= now + KEPT_SECONDS:
            return known
        with self._lock:
            stored = self._database.read(read_policies)
            found = tuple(parse_policy(orjson.loads(item.document), item.id) for item in stored)
            self._known = (self._clock.monotonic() + KEPT_SECONDS, found)
        return found


def check_policy(document: Any, name: str = "") -> AccessPolicy:
    """Read a document. Raises Invalid that names the field."""
    try:
        return parse_policy(document, name)
    except ValueError as error:
        param = str(error).partition(":")[0]
        raise Invalid(str(error), param=param, code="invalid_policy") from None


def put_policy(
    database: Database, clock: Clock, document: Mapping[str, Any], zones: Collection[str] | None = None
) -> StoredPolicy:
    """Keep a policy, in place of the one of its id if it names one. `zones`: those there are, where that is known.

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
    """A zone that there is not holds nobody: a deny that names it would deny nobody, and say nothing."""
    wanted = policy.condition.zones or frozenset()
    missing = sorted(wanted - set(known)) if known is not None else []
    if missing:
        there = f"there are {', '.join(sorted(known or ()))}" if known else "there are none"
        message = f"condition.zone.in: [access] zones of penstock.toml has no {missing[0][:40]!r}; {there}"
        raise Invalid(message, param="condition.zone.in", code="invalid_policy")


def check_new_name(database: Database, name: str) -> None:
    """Refuse a client of a team's administrator that a policy names already. Raises Forbidden, DatabaseUnreachable."""
    check_name([parse_policy(orjson.loads(item.document), item.id) for item in list_policies(database)], name)


def list_policies(database: Database) -> list[StoredPolicy]:
    """All of them."""
    return database.read(read_policies)


def remove_policy(database: Database, policy_id: str) -> None:
    """Take one away. Raises NotFound, DatabaseUnreachable."""
    if not database.write(lambda conn: delete_policy(conn, policy_id)):
        raise NotFound("there is no such policy", param="policy_id", code="policy_not_found")
