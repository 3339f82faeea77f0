"""The Batch API of OpenAI: /v1/files and /v1/batches over the same rows as /v1/batch."""

from __future__ import annotations

import hashlib
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from flask import Response, request
from flask.typing import ResponseReturnValue
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from app.api.access_control import Callers
from app.api.auditing import note
from app.api.body import SMALL_BODY, Query, boundary, pieces, read_body, read_form, read_query
from app.api.openai_shapes import DeletedFile, File, FileList, OpenAiBatch, OpenAiBatchList, openai_batch_view
from app.api.openapi import BYTES, Operation, ResponseDoc
from app.api.responses import answer, page
from app.composition.api import OpenAiUseCases
from app.platform.domain.errors import Conflict, Invalid
from app.platform.domain.times import parse_duration
from app.settings import ApiSettings
from app.submission.bodies import Body, CallbackUrl, Metadata, option_headers, refuse
from app.submission.create_file_batch import FileBatchRequest
from app.submission.domain.request import LONGEST_EXPIRY, BatchRequest, read_patience
from app.submission.openai_bodies import endpoint_path
from app.submission.store_file import PURPOSES, Upload, UploadParams
from app.submission.validation import parse, parse_json
from app.tasks.domain.rows import BatchRow, FileRow

_FORM_OVERHEAD = 1024 * 1024  # bytes of a form besides its file
_SHORTEST, _LONGEST = 3600, 30 * 86400  # seconds for which a file may be kept
_ABOUT_FILES = (
    "The file is stored as it arrives and becomes visible when it is complete. Batch files are kept for 30 days, or as "
    "long as `expires_after[anchor]=created_at` and `expires_after[seconds]` say; others until deleted."
)


class FileForm(BaseModel):
    """An upload."""

    file: str = Field(description="The file.", json_schema_extra={"format": "binary"})
    purpose: Literal["assistants", "batch", "evals", "fine-tune", "user_data", "vision"]


class OpenAiQuery(Query):
    """A query string; unknown names are ignored, as clients for other providers add some."""

    model_config = ConfigDict(extra="ignore")


class FilesQuery(OpenAiQuery):
    """Which files to list."""

    purpose: str | None = Field(None, description="Only files for this purpose.")
    after: str | None = Field(None, description="The last id of the previous page.")
    limit: int = Field(10_000, ge=1, le=10_000, description="Page size.")
    order: Literal["asc", "desc"] = Field("desc", description="Sort by age; `desc` is newest first.")


class FileViews:
    """The /v1/files operations."""

    def __init__(self, use_cases: OpenAiUseCases, callers: Callers, limits: ApiSettings) -> None:
        self._use_cases = use_cases
        self._callers = callers
        self._most = limits.max_batch_body

    def operations(self) -> list[Operation]:
        """The operations of these views."""
        one = {200: ResponseDoc("The file.", File)}
        return [
            _operation(
                "POST",
                "/v1/files",
                "Upload a file.",
                self.upload,
                one,
                _ABOUT_FILES,
                form=FileForm,
                refusals=(413,),
            ),
            _operation(
                "GET",
                "/v1/files",
                "List files.",
                self.list,
                {200: ResponseDoc("A page.", FileList)},
                query=FilesQuery,
            ),
            _operation("GET", "/v1/files/{file_id}", "Retrieve a file.", self.show, one, refusals=(404,)),
            _operation(
                "GET",
                "/v1/files/{file_id}/content",
                "Download a file.",
                self.content,
                {200: ResponseDoc("Its bytes.", media=BYTES)},
                refusals=(404,),
            ),
            _operation(
                "DELETE",
                "/v1/files/{file_id}",
                "Delete a file.",
                self.delete,
                {200: ResponseDoc("The file was deleted.", DeletedFile)},
                refusals=(404,),
            ),
        ]

    def upload(self) -> ResponseReturnValue:
        """200 when the whole file is stored."""
        caller = self._callers.current()
        uploads: list[Upload] = []

        def open_file(filename: str) -> Upload:
            uploads.append(self._use_cases.store_file.begin(caller.client_id, _name(filename)))
            return uploads[0]

        try:
            fields = read_form(pieces(self._most + _FORM_OVERHEAD), boundary(), open_file)
            row = uploads[0].finish(_params(fields))
        except BaseException:
            for begun in uploads:
                begun.discard()
            raise
        note(subject=row.id)
        return answer(file_view(row))

    def list(self) -> ResponseReturnValue:
        """A page."""
        caller = self._callers.current()
        query = read_query(FilesQuery)
        found = self._use_cases.read_files.page(
            caller.client_id,
            purpose=query.purpose,
            after=query.after,
            ascending=query.order == "asc",
            limit=query.limit,
        )
        data = [file_view(row) for row in found.rows]
        return answer(page(FileList, data, has_more=found.has_more))

    def show(self, file_id: str) -> ResponseReturnValue:
        """The file's metadata."""
        caller = self._callers.current()
        return answer(file_view(self._use_cases.read_files.file(caller.client_id, file_id)))

    def content(self, file_id: str) -> ResponseReturnValue:
        """A stream, read from the database a piece at a time."""
        caller = self._callers.current()
        row, chunks = self._use_cases.read_files.content(caller.client_id, file_id)
        headers = {"Content-Length": str(row.bytes)} if row.bytes is not None else {}
        return Response(chunks, content_type=BYTES, headers=headers)

    def delete(self, file_id: str) -> ResponseReturnValue:
        """Hide the file; its content is deleted in the background."""
        caller = self._callers.current()
        self._use_cases.store_file.delete(caller.client_id, file_id)
        return answer(DeletedFile(id=file_id, object="file", deleted=True))


def _operation(
    method: str, path: str, summary: str, view: Any, answers: Any, description: str = "", **more: Any
) -> Operation:
    return Operation(method, path, summary, view, answers, group="OpenAI", description=description, **more)


# OpenAI's client uploads files for evals, yet its own model of a file does not know that purpose.
_SHOWN = {"evals": "user_data"}


def file_view(row: FileRow) -> File:
    """Render a file in OpenAI's format."""
    return File(
        id=row.id,
        object="file",
        bytes=row.bytes or 0,
        created_at=int(row.created_at),
        expires_at=None if row.expires_at is None else int(row.expires_at),
        filename=row.filename,
        purpose=_SHOWN.get(row.purpose, row.purpose),
        status="processed",
        status_details=None,
    )


def _name(filename: str) -> str:
    """The last part of a path, printable characters only."""
    last = filename.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(filter(str.isprintable, last))[:255] or "file"


def _params(fields: dict[str, str]) -> UploadParams:
    purpose = fields.get("purpose")
    if purpose is None:
        raise Invalid("purpose: is required", param="purpose", code="missing_field")
    if purpose not in PURPOSES:
        raise Invalid(f"purpose: must be one of {', '.join(PURPOSES)}", param="purpose", code="invalid_value")
    return UploadParams(purpose, _kept(fields))


def _kept(fields: dict[str, str]) -> float | None:
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        param = "expires_after[anchor]"
        raise Invalid(f"{param}: must be created_at", param=param, code="invalid_value")
    return kept_seconds(_whole(seconds))


def _whole(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= 9 else 0


def kept_seconds(seconds: int) -> float:
    """Check how long a file is kept, in seconds. Raises Invalid."""
    if not _SHORTEST <= seconds <= _LONGEST:
        param = "expires_after[seconds]"
        raise Invalid(f"{param}: must be between 1 hour and 30 days", param=param, code="invalid_value")
    return float(seconds)


_ABOUT_BATCHES = (
    "The file's lines are checked after the response, while the batch is `validating`; an invalid line fails the batch "
    "and is reported with its number in `errors`. `completion_window` is any duration, such as 10m, 24h or 7d."
)


def _window(value: str) -> str:
    if not 1 <= parse_duration(value) <= LONGEST_EXPIRY:
        refuse("must be between 1 second and 30 days")
    return value


class OutputExpiry(Body):
    """How long output files are kept after the end of the batch."""

    anchor: Literal["created_at"]
    seconds: int


class FileBatchBody(Body):
    """A batch over a file. Fields that other providers' clients add are ignored."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _no_slips(cls, value: Any) -> Any:
        """Refuse what looks like a misspelt field: ignored, it would be missed later."""
        for name in value.keys() - cls.model_fields.keys() if isinstance(value, dict) else ():
            if close := get_close_matches(name[:80], cls.model_fields, n=1, cutoff=0.75):
                refuse(f"unknown field; did you mean {close[0]}?", field=name[:80], code="unknown_field")
        return value

    input_file_id: str = Field(description="A file uploaded for the purpose `batch`.")
    endpoint: Annotated[Literal["/v1/chat/completions"], BeforeValidator(endpoint_path)]
    completion_window: Annotated[str, AfterValidator(_window)]
    metadata: Metadata | None = None
    output_expires_after: OutputExpiry | None = None
    callback_url: CallbackUrl | None = Field(None, description="Called once, when the batch has ended.")
    batch_size: int | None = Field(None, ge=1, le=1_000_000, description="Maximum number of tasks in flight.")

    def file_batch_request(self, fingerprint: str, *, repeated: bool) -> FileBatchRequest:
        """Build the use case's request. Raises Invalid."""
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


class BatchesQuery(OpenAiQuery):
    """Which batches to list."""

    after: str | None = Field(None, description="The last id of the previous page.")
    limit: int = Field(20, ge=1, le=100, description="Page size.")


class OpenAiBatchViews:
    """The /v1/batches operations."""

    def __init__(self, use_cases: OpenAiUseCases, callers: Callers) -> None:
        self._use_cases = use_cases
        self._callers = callers

    def operations(self) -> list[Operation]:
        """The operations of these views."""
        one, path = {200: ResponseDoc("The batch.", OpenAiBatch)}, "/v1/batches/{batch_id}"
        return [
            _operation(
                "POST",
                "/v1/batches",
                "Run the requests in a file.",
                self.create,
                one,
                _ABOUT_BATCHES,
                body=FileBatchBody,
            ),
            _operation(
                "GET",
                "/v1/batches",
                "List batches, newest first.",
                self.list,
                {200: ResponseDoc("A page.", OpenAiBatchList)},
                query=BatchesQuery,
            ),
            _operation("GET", path, "Retrieve a batch.", self.show, one, refusals=(404,)),
            _operation("POST", f"{path}/cancel", "Cancel a batch.", self.cancel, one, refusals=(400, 404)),
        ]

    def create(self) -> ResponseReturnValue:
        """200 with the batch, usually `validating`."""
        caller = self._callers.current()
        received = read_body(SMALL_BODY)
        value = parse_json(received)
        own = value.pop("penstock", None) if isinstance(value, dict) else None
        ours = {**option_headers(request.headers.items()), **(own if isinstance(own, dict) else {})}
        body = parse(FileBatchBody, {**value, **ours} if ours else value)
        digest = hashlib.sha256(f"{caller.key_id}\n".encode() + received)
        repeated = read_patience(request.headers.get).tries > 0
        wanted = body.file_batch_request(digest.hexdigest(), repeated=repeated)
        created = self._use_cases.create_file_batch.create(caller.client_id, wanted)
        note(subject=created.id)
        return answer(self._view(created))

    def list(self) -> ResponseReturnValue:
        """A page, newest first."""
        caller = self._callers.current()
        query = read_query(BatchesQuery)
        rows, has_more = self._use_cases.read_batches.page(caller.client_id, query.after, query.limit)
        data = [self._view(row) for row in rows]
        return answer(page(OpenAiBatchList, data, has_more=has_more))

    def show(self, batch_id: str) -> ResponseReturnValue:
        """The batch."""
        caller = self._callers.current()
        return answer(self._view(self._use_cases.read_batches.batch(caller.client_id, batch_id)))

    def cancel(self, batch_id: str) -> ResponseReturnValue:
        """The batch after the request to cancel it. 400 if it has ended, as with OpenAI."""
        caller = self._callers.current()
        try:
            row = self._use_cases.cancel_batch.cancel(caller.client_id, batch_id)
        except Conflict as error:
            raise Invalid(error.message, param=error.param, code=error.code) from None
        return answer(self._view(row))

    def _view(self, row: BatchRow) -> OpenAiBatch:
        return openai_batch_view(row, self._use_cases.read_batch_usage.ended(row))
