"""/v1/batches: OpenAI's Batch API over the same rows as /v1/batch."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

import orjson
from flask import request
from flask.typing import ResponseReturnValue
from pydantic import AfterValidator, Field

from app.api.access_control import Callers
from app.api.auditing import note
from app.api.body import read_body
from app.api.files import kept_seconds
from app.api.openai_shapes import OpenAiBatch, OpenAiBatchList
from app.api.operations import Operation, ResponseDoc
from app.api.queries import Query, read_query
from app.api.responses import answer, raw
from app.api.use_cases import OpenAiHouse
from app.platform.domain.errors import Conflict, Invalid
from app.platform.domain.times import parse_duration
from app.submission.bodies import Body, CallbackUrl, Metadata, refuse
from app.submission.create_file_batch import FileBatchRequest
from app.submission.domain.openai_batch import openai_batch_view
from app.submission.domain.request import LONGEST_EXPIRY, BatchRequest
from app.submission.domain.request_headers import read_patience
from app.submission.validation import parse, parse_json
from app.tasks.store.batches import BatchRow

_MOST = 64 * 1024  # bytes of a body
_ABOUT = (
    "The file's lines are checked behind the answer, while the batch is `validating`; one that is refused fails it, "
    "with its number in `errors`. `completion_window` is free: such as 10m, 24h or 7d."
)


def _window(value: str) -> str:
    if not 1 <= parse_duration(value) <= LONGEST_EXPIRY:
        refuse("must lie between 1 second and 30 days")
    return value


class OutputExpiry(Body):
    """How long the output files are kept, from the end of the batch on."""

    anchor: Literal["created_at"]
    seconds: int


class FileBatchBody(Body):
    """A batch over a file."""

    input_file_id: str = Field(description="A file uploaded for the purpose `batch`.")
    endpoint: Literal["/v1/chat/completions"]
    completion_window: Annotated[str, AfterValidator(_window)]
    metadata: Metadata | None = None
    output_expires_after: OutputExpiry | None = None
    callback_url: CallbackUrl | None = Field(None, description="Told once, when the batch has ended.")
    batch_size: int | None = Field(None, ge=1, le=1_000_000, description="Tasks in flight at once.")

    def wanted(self, fingerprint: str, *, repeated: bool) -> FileBatchRequest:
        """The plain value that the services take. Raises Invalid."""
        options = BatchRequest(
            batch_size=self.batch_size,
            callback_url=self.callback_url,
            expires_in=parse_duration(self.completion_window),
            metadata=self.metadata,
        )
        kept = self.output_expires_after
        return FileBatchRequest(
            self.input_file_id,
            self.completion_window,
            options,
            None if kept is None else kept_seconds(kept.seconds),
            fingerprint,
            repeated,
        )


class BatchesQuery(Query):
    """Which batches to list."""

    after: str | None = Field(None, description="The last id of the page before.")
    limit: int = Field(20, ge=1, le=100, description="How many at most.")


class OpenAiBatchViews:
    """Parse, authenticate, call one service, render."""

    def __init__(self, house: OpenAiHouse, callers: Callers) -> None:
        self._house = house
        self._callers = callers

    def operations(self) -> list[Operation]:
        """What is offered."""
        one, path = {200: ResponseDoc("The batch.", OpenAiBatch)}, "/v1/batches/{batch_id}"
        return [
            _operation("POST", "/v1/batches", "Run a file.", self.create, one, _ABOUT, body=FileBatchBody),
            _operation(
                "GET",
                "/v1/batches",
                "List batches, newest first.",
                self.list,
                {200: ResponseDoc("A page.", OpenAiBatchList)},
                query=BatchesQuery,
            ),
            _operation("GET", path, "Look at a batch.", self.show, one, refusals=(404,)),
            _operation("POST", f"{path}/cancel", "Cancel a batch.", self.cancel, one, refusals=(400, 404)),
        ]

    def create(self) -> ResponseReturnValue:
        """200 with the batch as it stands, mostly `validating`."""
        caller = self._callers.current()
        received = read_body(_MOST)
        body = parse(FileBatchBody, parse_json(received))
        digest = hashlib.sha256(request.headers.get("Authorization", "").encode() + b"\n" + received)
        repeated = read_patience(request.headers.get).tries > 0
        wanted = body.wanted(digest.hexdigest(), repeated=repeated)
        created = self._house.create_file_batch.create(caller.client_id, wanted)
        note(subject=created.id)
        return answer(self._view(created))

    def list(self) -> ResponseReturnValue:
        """A page, newest first."""
        caller = self._callers.current()
        query = read_query(BatchesQuery)
        rows, has_more = self._house.list_batches.page(caller.client_id, query.after, query.limit)
        data = [self._view(row) for row in rows]
        return answer(
            {
                "object": "list",
                "data": data,
                "has_more": has_more,
                "first_id": data[0]["id"] if data else None,
                "last_id": data[-1]["id"] if data else None,
            }
        )

    def show(self, batch_id: str) -> ResponseReturnValue:
        """The batch as it stands."""
        caller = self._callers.current()
        return answer(self._view(self._house.read_batches.batch(caller.client_id, batch_id)))

    def cancel(self, batch_id: str) -> ResponseReturnValue:
        """The batch as it stands after the wish. One that has ended is refused by 400, as OpenAI does."""
        caller = self._callers.current()
        try:
            row = self._house.cancel_batch.cancel(caller.client_id, batch_id)
        except Conflict as error:
            raise Invalid(error.message, param=error.param, code=error.code) from None
        return answer(self._view(row))

    def _view(self, row: BatchRow) -> dict[str, Any]:
        values = {name: getattr(row, name) for name in row.__dataclass_fields__}
        errors = orjson.loads(row.errors) if row.errors else None
        usage = self._house.read_batch_usage.ended(row)
        return openai_batch_view({**values, "metadata": raw(row.metadata)}, errors=errors, usage=usage)


def _operation(
    method: str, path: str, summary: str, view: Any, answers: Any, description: str = "", **more: Any
) -> Operation:
    return Operation(method, path, summary, view, answers, group="OpenAI", description=description, **more)
