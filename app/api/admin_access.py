"""/v1/admin/policies and /v1/admin/audit, for service administrators."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import orjson
from flask import Response
from flask.typing import ResponseReturnValue
from pydantic import Field

from app.access import audit_log, manage_policies
from app.access.audit_log import AuditFilter, StoredEntry, as_json
from app.access.domain.audit import ChainCopy
from app.access.manage_policies import StoredPolicy
from app.api.access_control import Callers
from app.api.access_shapes import AuditCheck, AuditEntry, Gone, Policy, PolicyBody, PolicyList
from app.api.auditing import note
from app.api.body import Query, read_model, read_query
from app.api.openapi import JSONL, Operation, ResponseDoc
from app.api.responses import answer
from app.composition.api import UseCases
from app.platform.domain.errors import Invalid
from app.platform.domain.times import parse_instant, to_rfc3339
from app.tasks.views import raw


class AuditQuery(Query):
    """Which audit entries to export."""

    since: str | None = Field(None, description="Start of the range, such as 2026-11-21T06:00:00Z.")
    until: str | None = Field(None, description="End of the range, exclusive.")
    client_id: str | None = None
    team: str | None = None
    key_id: str | None = None
    action: str | None = Field(None, description="The action or its beginning, such as POST /v1/admin.")
    task_id: str | None = None
    status: int | None = Field(None, ge=0, le=599)
    limit: int | None = Field(None, ge=1, le=1_000_000, description="Only this many of the newest entries.")


class AuditCheckQuery(Query):
    """What to compare the chain with."""

    since: str | None = Field(None, description="The `chain` of an earlier verification, kept elsewhere.")


class AccessViews:
    """The /v1/admin/policies and /v1/admin/audit operations."""

    def __init__(self, use_cases: UseCases, callers: Callers, zones: Collection[str]) -> None:
        """`zones`: the names of networks that policies may use."""
        self._use_cases = use_cases
        self._callers = callers
        self._zones = zones

    def operations(self) -> list[Operation]:
        """The operations of these views."""
        group = "Administration"
        return [
            Operation(
                "GET",
                "/v1/admin/policies",
                "List policies.",
                self.list,
                {200: ResponseDoc("All policies.", PolicyList)},
                group,
            ),
            Operation(
                "POST",
                "/v1/admin/policies",
                "Create a policy, or replace the one with its id.",
                self.put,
                {201: ResponseDoc("The policy, effective within five seconds.", Policy)},
                group,
                body=PolicyBody,
                refusals=(413,),
            ),
            Operation(
                "DELETE",
                "/v1/admin/policies/{policy_id}",
                "Delete a policy.",
                self.remove,
                {200: ResponseDoc("The policy was deleted.", Gone)},
                group,
                refusals=(404,),
            ),
            Operation(
                "GET",
                "/v1/admin/audit",
                "Export the audit log.",
                self.export,
                {200: ResponseDoc("One line per entry, oldest first.", AuditEntry, JSONL)},
                group,
                query=AuditQuery,
            ),
            Operation(
                "GET",
                "/v1/admin/audit/verify",
                "Verify the audit log's hash chain.",
                self.verify,
                {200: ResponseDoc("The result.", AuditCheck)},
                group,
                query=AuditCheckQuery,
            ),
        ]

    def list(self) -> ResponseReturnValue:
        """All policies."""
        self._callers.current()
        found = manage_policies.list_policies(self._use_cases.database)
        return answer(PolicyList(object="list", data=[_policy(item) for item in found]))

    def put(self) -> ResponseReturnValue:
        """201 with the stored policy."""
        self._callers.current()
        body = read_model(PolicyBody)
        document = body.model_dump(exclude_unset=True, exclude_none=True)
        stored = manage_policies.put_policy(
            self._use_cases.database, self._use_cases.clock, document, self._zones
        )
        note(subject=stored.id)
        return answer(_policy(stored), 201)

    def remove(self, policy_id: str) -> ResponseReturnValue:
        """Delete the policy."""
        self._callers.current()
        manage_policies.remove_policy(self._use_cases.database, policy_id)
        return answer(Gone(id=policy_id, deleted=True))

    def export(self) -> ResponseReturnValue:
        """A stream, read from the database a page at a time."""
        self._callers.current()
        query = read_query(AuditQuery)
        self._use_cases.record_audit.flush()
        kept = audit_log.entries(self._use_cases.database, _filter(query), query.limit)
        return Response(_lines(kept), content_type=JSONL)

    def verify(self) -> ResponseReturnValue:
        """Verify the whole chain."""
        self._callers.current()
        since = read_query(AuditCheckQuery).since
        try:
            copy = None if since is None else ChainCopy.parse(since)
        except ValueError as error:
            raise Invalid(f"since: {error}", param="since", code="invalid_value") from None
        found = audit_log.verify(self._use_cases.database, copy)
        fault = None if found.fault is None else f"entry {found.fault.number}: {found.fault.what}"
        return answer(
            AuditCheck(
                holds=fault is None,
                entries=found.entries,
                unlinked=found.unlinked,
                fault=fault,
                digest=found.head.digest,
                chain=str(found.copy),
            )
        )


def _lines(kept: Iterator[StoredEntry]) -> Iterator[bytes]:
    for one in kept:
        yield orjson.dumps(AuditEntry(**as_json(one)), option=orjson.OPT_APPEND_NEWLINE)


def _filter(query: AuditQuery) -> AuditFilter:
    values = query.model_dump(exclude={"limit", "since", "until"})
    return AuditFilter(since=_instant("since", query.since), until=_instant("until", query.until), **values)


def _instant(name: str, text: str | None) -> float | None:
    try:
        return None if text is None else parse_instant(text)
    except ValueError as error:
        raise Invalid(f"{name}: {error}", param=name, code="invalid_value") from None


def _policy(stored: StoredPolicy) -> Policy:
    return Policy(
        id=stored.id, object="policy", document=raw(stored.document), created_at=to_rfc3339(stored.created_at)
    )
