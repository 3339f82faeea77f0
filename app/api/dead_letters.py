"""/v1/callbacks and /v1/admin/callbacks: undeliverable callbacks and their replay; callback secrets."""

from __future__ import annotations

import os

from flask import request
from flask.typing import ResponseReturnValue
from pydantic import Field

from app.access.domain.caller import SECRET_BYTES
from app.api.access_control import Callers
from app.api.access_shapes import DeadLetter, DeadLetterList, ReplayBody, Replayed, RotateBody, Secret
from app.api.body import Query, read_model, read_query
from app.api.openapi import Operation, ResponseDoc
from app.api.responses import answer
from app.callbacks.callback_settings import OVERLAP_SECONDS, rotate_callback_secret
from app.callbacks.dead_letters import DeadLetterRow, DeadLetters
from app.callbacks.domain.callback import NoCallbackNotifier
from app.composition.api import UseCases
from app.platform.domain.errors import Invalid, NotFound
from app.platform.domain.times import to_rfc3339


class DeadQuery(Query):
    """Which callbacks to list."""

    after: str | None = Field(None, description="The last id of the previous page.")
    limit: int = Field(100, ge=1, le=1000)


class DeadLetterViews:
    """A client's own callbacks under /v1/callbacks, all under /v1/admin/callbacks."""

    def __init__(self, use_cases: UseCases, callers: Callers) -> None:
        self._use_cases = use_cases
        self._callers = callers
        # The leader notifies the callback workers of a replay within a second.
        self._letters = DeadLetters(use_cases.database, NoCallbackNotifier(), use_cases.clock)

    def operations(self) -> list[Operation]:
        """The operations of these views."""
        secret = Operation(
            "POST",
            "/v1/callbacks/secret",
            "Rotate your callback secret; both secrets sign during the overlap.",
            self.rotate,
            {201: ResponseDoc("The secret; it is only shown once.", Secret)},
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
        replayed = {200: ResponseDoc("Queued for delivery, with the same `webhook-id`.", Replayed)}
        return [
            Operation(
                "GET",
                path,
                "List undeliverable callbacks.",
                self.list,
                {200: ResponseDoc("A page, newest first.", DeadLetterList)},
                group,
                query=DeadQuery,
            ),
            Operation(
                "POST",
                f"{path}/replay",
                "Replay the callbacks given up since a time.",
                self.replay_since,
                replayed,
                group,
                body=ReplayBody,
                refusals=(413,),
            ),
            Operation(
                "POST",
                f"{path}/{{callback_id}}/replay",
                "Replay a callback.",
                self.replay,
                replayed,
                group,
                refusals=(404,),
            ),
        ]

    def list(self) -> ResponseReturnValue:
        """A page."""
        client_id = self._owner()
        query = read_query(DeadQuery)
        before = None if query.after is None else self._cursor(client_id, query.after)
        found = self._letters.list_dead(client_id, before_seq=before, limit=query.limit + 1)
        shown = [_letter(letter) for letter in found[: query.limit]]
        return answer(DeadLetterList(object="list", data=shown, has_more=len(found) > query.limit))

    def replay_since(self) -> ResponseReturnValue:
        """The number of replayed callbacks."""
        client_id = self._owner()
        body = read_model(ReplayBody)
        return answer(Replayed(replayed=self._letters.replay_since(client_id, body.since)))

    def replay(self, callback_id: str) -> ResponseReturnValue:
        """Replay one callback."""
        if not self._letters.replay(self._owner(), callback_id):
            raise NotFound(
                "there is no undeliverable callback with this id",
                param="callback_id",
                code="callback_not_found",
            )
        return answer(Replayed(replayed=1))

    def rotate(self) -> ResponseReturnValue:
        """201 with the secret."""
        caller = self._callers.current()
        body = read_model(RotateBody, optional=True)
        overlap = OVERLAP_SECONDS if body.overlap is None else body.overlap
        chance = os.urandom(SECRET_BYTES)
        made = rotate_callback_secret(
            self._use_cases.database, self._use_cases.clock, caller.client_id, chance, overlap
        )
        return answer(Secret(object="callback_secret", callback_secret=made), 201)

    def _owner(self) -> str | None:
        """The caller's id; None under /v1/admin, where only administrators are admitted."""
        caller = self._callers.current()
        return None if request.path.startswith("/v1/admin") else caller.client_id

    def _cursor(self, client_id: str | None, callback_id: str) -> int:
        found = self._letters.place(client_id, callback_id)
        if found is None:
            raise Invalid(
                "after: must be the id of one of your callbacks", param="after", code="invalid_cursor"
            )
        return found


def _letter(letter: DeadLetterRow) -> DeadLetter:
    return DeadLetter(
        id=letter.id,
        object="callback",
        client_id=letter.client_id,
        task_id=letter.task_id,
        batch_id=letter.batch_id,
        type=letter.type,
        url=letter.url,
        tries=letter.tries,
        reason=letter.reason,
        created_at=to_rfc3339(letter.created_at),
        failed_at=to_rfc3339(letter.failed_at),
    )
