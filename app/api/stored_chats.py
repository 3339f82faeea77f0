"""Stored chat completions, as OpenAI's client lists, reads, changes and deletes them: chats with `store: true`.

They are tasks under other names: `chatcmpl-` instead of `task_`.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import orjson
from flask import request
from flask.typing import ResponseReturnValue
from pydantic import ConfigDict, Field

from app.api.access_control import Callers
from app.api.auditing import note
from app.api.body import Query, read_model, read_query
from app.api.openai_shapes import ChatCompletion, ChatCompletionList, DeletedChatCompletion
from app.api.openapi import Operation, ResponseDoc
from app.api.responses import answer
from app.composition.api import UseCases
from app.platform.domain.errors import NotFound
from app.submission.bodies import Body, Metadata
from app.submission.openai_bodies import STORED

PATH = "/v1/chat/completions"
_PREFIX = "chatcmpl-"
_METADATA = re.compile(r"metadata\[(.{1,64})\]")


def completion_id(task_id: str) -> str:
    """The id under which a stored chat is known."""
    return task_id.replace("task_", _PREFIX, 1)


class StoredChatsQuery(Query):
    """Which stored chat completions to list; `metadata[NAME]=VALUE` filters, too."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = Field(None, description="Only those of this model.")
    after: str | None = Field(None, description="The last id of the previous page.")
    limit: int = Field(20, ge=1, le=100, description="Page size.")
    order: Literal["asc", "desc"] = Field("asc", description="Sort by age; `desc` is newest first.")


class StoredChatBody(Body):
    """What can be changed of a stored chat completion."""

    metadata: Metadata | None = Field(description="Replaces its metadata.")


class StoredChatViews:
    """The operations on stored chat completions."""

    def __init__(self, use_cases: UseCases, callers: Callers) -> None:
        self._use_cases = use_cases
        self._callers = callers

    def operations(self) -> list[Operation]:
        """The operations of these views."""
        one, path = {200: ResponseDoc("The chat completion.", ChatCompletion)}, f"{PATH}/{{completion_id}}"
        listed = {200: ResponseDoc("A page.", ChatCompletionList)}
        gone = {200: ResponseDoc("It was deleted, with its task.", DeletedChatCompletion)}
        query, body = StoredChatsQuery, StoredChatBody
        group, missing = "OpenAI", (404,)
        return [
            Operation("GET", PATH, "List stored chat completions.", self.list, listed, group, query=query),
            Operation("GET", path, "Retrieve a stored one.", self.show, one, group, refusals=missing),
            Operation(
                "POST", path, "Change its metadata.", self.update, one, group, body=body, refusals=missing
            ),
            Operation("DELETE", path, "Delete a stored one.", self.delete, gone, group, refusals=missing),
        ]

    def list(self) -> ResponseReturnValue:
        """A page."""
        client_id, query = self._callers.current().client_id, read_query(StoredChatsQuery)
        wanted = {
            found[1]: value for name, value in request.args.items() if (found := _METADATA.fullmatch(name))
        }
        rows, has_more = self._use_cases.read_tasks.marked(
            client_id,
            STORED,
            model=query.model,
            metadata=wanted,
            after=None if query.after is None else _task_id(query.after),
            ascending=query.order == "asc",
            limit=query.limit,
        )
        data = [_view(row) for row in rows]
        first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        return answer(
            {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more}
        )

    def show(self, completion_id: str) -> ResponseReturnValue:
        """The completion."""
        return answer(_view(self._stored(self._callers.current().client_id, completion_id)))

    def update(self, completion_id: str) -> ResponseReturnValue:
        """The completion after the change."""
        client_id = self._callers.current().client_id
        row = self._stored(client_id, completion_id)
        note(subject=row.id)
        metadata = read_model(StoredChatBody).metadata
        text = None if metadata is None else orjson.dumps(metadata).decode()
        self._use_cases.read_tasks.set_metadata(client_id, row.id, text)
        return answer(_view(self._stored(client_id, completion_id)))

    def delete(self, completion_id: str) -> ResponseReturnValue:
        """Delete the task behind it."""
        client_id = self._callers.current().client_id
        row = self._stored(client_id, completion_id)
        note(subject=row.id)
        self._use_cases.delete_task.delete(client_id, row.id)
        return answer({"id": completion_id, "object": "chat.completion.deleted", "deleted": True})

    def _stored(self, client_id: str, name: str) -> Any:
        missing = NotFound(
            f"no stored chat completion {name[:80]!r}; those made with store: true are kept",
            param="completion_id",
            code="completion_not_found",
        )
        try:
            row = self._use_cases.read_tasks.task(client_id, _task_id(name))
        except NotFound:
            raise missing from None
        if row.custom_id != STORED or row.result is None:
            raise missing
        return row


def _task_id(name: str) -> str:
    return f"task_{name.removeprefix(_PREFIX)}"


def _view(row: Any) -> dict[str, Any]:
    metadata = None if row.metadata is None else orjson.loads(row.metadata)
    return {**orjson.loads(row.result or "{}"), "id": completion_id(row.id), "metadata": metadata}
