"""/v1/callbacks and /v1/admin/callbacks: what could not be delivered, and its replay."""

from __future__ import annotations

import os
from typing import Any

from flask import request
from flask.typing import ResponseReturnValue
from pydantic import Field

from app.access.domain.caller import SECRET_BYTES
from app.api.access_control import Callers
from app.api.access_shapes import DeadLetterList, ReplayBody, Replayed, RotateBody, Secret
from app.api.body import read_body
from app.api.operations import Operation, ResponseDoc
from app.api.queries import Query, read_query
from app.api.responses import answer
from app.callbacks.callback_settings import OVERLAP_SECONDS, rotate_callback_secret
from app.callbacks.dead_letters import DeadLetterRow, DeadLetters
from app.callbacks.ports import NoCallbackNotifier
from app.composition.api import UseCases
from app.platform.domain.errors import Invalid, NotFound
from app.platform.domain.times import to_rfc3339
from app.submission.validation import parse, parse_json

_MOST = 64 * 1024  # bytes of a body


class DeadQuery(Query):
    """Which of them."""

    after: str | None = Field(None, description="The last id of the page before.")
    limit: int = Field(100, ge=1, le=1000)


class DeadLetterViews:
    """A client's own under /v1/callbacks, everybody's under /v1/admin/callbacks."""

    def __init__(self, use_cases: UseCases, callers: Callers) -> None:
        self._use_cases = use_cases
        self._callers = callers
        # The leader rings what is replayed, within a second.
        self._letters = DeadLetters(use_cases.database, NoCallbackNotifier(), use_cases.clock)

    def operations(self) -> list[Operation]:
        """What is offered."""
        secret = Operation(
            "POST",
            "/v1/callbacks/secret",
            "Make another secret for your callbacks; both sign for the overlap.",
            self.rotate,
            {201: ResponseDoc("Shown this once.", Secret)},
            "Callbacks",
            body=RotateBody,
            refusals=(404, 413),
        )
        return [
            *self._under("/v1/callbacks", "Callbacks"),
            *self._under("/v1/admin/callbacks", "Administration"),
            secret,
        ]

    def _under(self, path: str, group: str) -> list[Operation]:
        replayed = {200: ResponseDoc("They are delivered again, with the same `webhook-id`.", Replayed)}
        return [
            Operation(
                "GET",
                path,
                "List callbacks that were given up.",
                self.list,
                {200: ResponseDoc("A page, newest first.", DeadLetterList)},
                group,
                query=DeadQuery,
            ),
            Operation(
                "POST",
                f"{path}/replay",
                "Deliver all again that were given up since an instant.",
                self.replay_since,
                replayed,
                group,
                body=ReplayBody,
                refusals=(413,),
            ),
            Operation(
                "POST",
                f"{path}/{{callback_id}}/replay",
                "Deliver one again.",
                self.replay,
                replayed,
                group,
                refusals=(404,),
            ),
        ]

    def list(self) -> ResponseReturnValue:
        """A page."""
        client_id = self._whose()
        query = read_query(DeadQuery)
        before = None if query.after is None else self._cursor(client_id, query.after)
        found = self._letters.list_dead(client_id, before_seq=before, limit=query.limit + 1)
        shown = [_letter(letter) for letter in found[: query.limit]]
        return answer({"object": "list", "data": shown, "has_more": len(found) > query.limit})

    def replay_since(self) -> ResponseReturnValue:
        """How many."""
        client_id = self._whose()
        body = parse(ReplayBody, parse_json(read_body(_MOST)))
        return answer({"replayed": self._letters.replay_since(client_id, body.since)})

    def replay(self, callback_id: str) -> ResponseReturnValue:
        """One."""
        if not self._letters.replay(self._whose(), callback_id):
            raise NotFound(
                "there is no dead letter of that id", param="callback_id", code="callback_not_found"
            )
        return answer({"replayed": 1})

    def rotate(self) -> ResponseReturnValue:
        """201 with the secret."""
        caller = self._callers.current()
        raw = read_body(_MOST)
        body = parse(RotateBody, parse_json(raw) if raw.strip() else {})
        overlap = OVERLAP_SECONDS if body.overlap is None else body.overlap
        chance = os.urandom(SECRET_BYTES)
        made = rotate_callback_secret(
            self._use_cases.database, self._use_cases.clock, caller.client_id, chance, overlap
        )
        return answer({"object": "callback_secret", "callback_secret": made}, 201)

    def _whose(self) -> str | None:
        """The caller's own; under /v1/admin everybody's: the auth let an administrator in."""
        caller = self._callers.current()
        return None if request.path.startswith("/v1/admin") else caller.client_id

    def _cursor(self, client_id: str | None, callback_id: str) -> int:
        found = self._letters.place(client_id, callback_id)
        if found is None:
            raise Invalid("after: not the id of a callback of yours", param="after", code="invalid_cursor")
        return found


def _letter(letter: DeadLetterRow) -> dict[str, Any]:
    return {
        "id": letter.id,
        "object": "callback",
        "client_id": letter.client_id,
        "task_id": letter.task_id,
        "batch_id": letter.batch_id,
        "type": letter.type,
        "url": letter.url,
        "tries": letter.tries,
        "reason": letter.reason,
        "created_at": to_rfc3339(letter.created_at),
        "failed_at": to_rfc3339(letter.failed_at),
    }
