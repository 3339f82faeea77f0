"""/v1/files: what batches are made of, and what they come to."""

from __future__ import annotations

from typing import Any, Literal

from flask import Response
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, Field

from app.api.access_control import Callers
from app.api.auditing import note
from app.api.body import pieces
from app.api.openai_shapes import DeletedFile, File, FileList
from app.api.operations import BYTES, Operation, ResponseDoc
from app.api.queries import Query, read_query
from app.api.responses import answer
from app.api.uploads import boundary, read_form
from app.api.use_cases import OpenAiHouse
from app.platform.domain.errors import Invalid
from app.settings import ApiSettings
from app.submission.store_file import PURPOSES, Upload, UploadParams
from app.tasks.store.files import FileRow

_FORM_ROOM = 1024 * 1024  # bytes of a form beside its file
_SHORTEST, _LONGEST = 3600, 30 * 86400  # seconds for which a file may be kept
_ABOUT = (
    "The file is stored as it comes in and is seen once it is whole. Files for batches are kept 30 days unless "
    "`expires_after[anchor]=created_at` and `expires_after[seconds]` say otherwise, others until they are deleted."
)


class FileForm(BaseModel):
    """An upload."""

    file: str = Field(description="The file.", json_schema_extra={"format": "binary"})
    purpose: Literal["assistants", "batch", "evals", "fine-tune", "user_data", "vision"]


class FilesQuery(Query):
    """Which files to list."""

    purpose: str | None = Field(None, description="Only those for this purpose.")
    after: str | None = Field(None, description="The last id of the page before.")
    limit: int = Field(10_000, ge=1, le=10_000, description="How many at most.")
    order: Literal["asc", "desc"] = Field(
        "desc", description="By age; the newest first unless said otherwise."
    )


class FileViews:
    """Parse, authenticate, call one service, render."""

    def __init__(self, house: OpenAiHouse, callers: Callers, limits: ApiSettings) -> None:
        self._house = house
        self._callers = callers
        self._most = limits.max_batch_body

    def operations(self) -> list[Operation]:
        """What is offered."""
        one = {200: ResponseDoc("The file.", File)}
        return [
            _operation(
                "POST",
                "/v1/files",
                "Upload a file.",
                self.upload,
                one,
                _ABOUT,
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
            _operation("GET", "/v1/files/{file_id}", "Look at a file.", self.show, one, refusals=(404,)),
            _operation(
                "GET",
                "/v1/files/{file_id}/content",
                "Read a file.",
                self.content,
                {200: ResponseDoc("Its bytes.", media=BYTES)},
                refusals=(404,),
            ),
            _operation(
                "DELETE",
                "/v1/files/{file_id}",
                "Delete a file.",
                self.delete,
                {200: ResponseDoc("It is gone.", DeletedFile)},
                refusals=(404,),
            ),
        ]

    def upload(self) -> ResponseReturnValue:
        """200 only when all of it is stored."""
        caller = self._callers.current()
        uploads: list[Upload] = []

        def open_file(filename: str) -> Upload:
            uploads.append(self._house.store_file.begin(caller.client_id, _name(filename)))
            return uploads[0]

        try:
            fields = read_form(pieces(self._most + _FORM_ROOM), boundary(), open_file)
            row = uploads[0].finish(_wishes(fields))
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
        page = self._house.read_files.page(
            caller.client_id,
            purpose=query.purpose,
            after=query.after,
            ascending=query.order == "asc",
            limit=query.limit,
        )
        data = [file_view(row) for row in page.rows]
        return answer(
            {
                "object": "list",
                "data": data,
                "has_more": page.has_more,
                "first_id": data[0]["id"] if data else None,
                "last_id": data[-1]["id"] if data else None,
            }
        )

    def show(self, file_id: str) -> ResponseReturnValue:
        """The file, without its bytes."""
        caller = self._callers.current()
        return answer(file_view(self._house.read_files.file(caller.client_id, file_id)))

    def content(self, file_id: str) -> ResponseReturnValue:
        """A stream, read from the database a piece at a time."""
        caller = self._callers.current()
        row, chunks = self._house.read_files.content(caller.client_id, file_id)
        headers = {"Content-Length": str(row.bytes)} if row.bytes is not None else {}
        return Response(chunks, content_type=BYTES, headers=headers)

    def delete(self, file_id: str) -> ResponseReturnValue:
        """It is hidden at once; its pieces follow."""
        caller = self._callers.current()
        self._house.store_file.delete(caller.client_id, file_id)
        return answer({"id": file_id, "object": "file", "deleted": True})


def _operation(
    method: str, path: str, summary: str, view: Any, answers: Any, description: str = "", **more: Any
) -> Operation:
    return Operation(method, path, summary, view, answers, group="OpenAI", description=description, **more)


def file_view(row: FileRow) -> dict[str, Any]:
    """A file as OpenAI has it."""
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.bytes or 0,
        "created_at": int(row.created_at),
        "expires_at": None if row.expires_at is None else int(row.expires_at),
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "processed",
        "status_details": None,
    }


def _name(filename: str) -> str:
    """The last part of a path, as far as it can be printed."""
    last = filename.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(filter(str.isprintable, last))[:255] or "file"


def _wishes(fields: dict[str, str]) -> UploadParams:
    purpose = fields.get("purpose")
    if purpose is None:
        raise Invalid("purpose: is needed", param="purpose", code="missing_field")
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
    """How long a file is kept. Raises Invalid."""
    if not _SHORTEST <= seconds <= _LONGEST:
        param = "expires_after[seconds]"
        raise Invalid(f"{param}: must lie between 1 hour and 30 days", param=param, code="invalid_value")
    return float(seconds)
