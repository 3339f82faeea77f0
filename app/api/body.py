"""Reading requests: bodies with their size limits, gzip and forms; query strings; clients that hang up."""

from __future__ import annotations

import select
import socket
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal, Protocol, TypeVar

from flask import Request, request
from flask.globals import request_ctx
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Event, File, MultipartDecoder, NeedData
from werkzeug.sansio.multipart import Field as FormField

from app.api.http_worker import SlowClient
from app.platform.domain.errors import Invalid
from app.platform.domain.times import parse_duration
from app.submission.bodies import BatchOptions, few_names, option_headers, refuse
from app.submission.validation import parse, parse_json

M = TypeVar("M", bound=BaseModel)
SMALL_BODY = 64 * 1024  # bytes; enough for bodies without prompts

MOST_MEMBERS = 100_000  # each costs about 10 us; block gzip of 512 MiB has 8,192
_FIRST, _WHOLE = (
    512,
    64 * 1024,
)  # bytes passed to zlib at a time: few for a new member, since zlib copies what it leaves


class BadGzip(ValueError):
    """Malformed gzip; the message says how."""


class Members:
    """Decompresses gzip with any number of members (RFC 1952, 2.2), piece by piece, in linear time."""

    def __init__(self) -> None:
        self._at_a_time = _FIRST
        self._fresh = True
        self._zlib = zlib.decompressobj(wbits=31)
        self._ended = 0

    @property
    def whole(self) -> bool:
        """Whether the input so far ends at the end of a member."""
        return self._ended > 0 and self._fresh

    def unpack(self, packed: bytes, most: int) -> Iterator[bytes]:
        """Decompress the next piece, `most` bytes at a time. Raises BadGzip."""
        place = 0
        while place < len(packed):
            given = packed[place : place + self._at_a_time]
            place += len(given)
            self._at_a_time = min(2 * self._at_a_time, _WHOLE)
            yield from self._unpack(given, most)
            if self._zlib.eof:
                place -= len(self._zlib.unused_data)
                self._end()

    def _unpack(self, given: bytes, most: int) -> Iterator[bytes]:
        self._fresh = False
        while out := self._next(given, most):
            yield out
            given = self._zlib.unconsumed_tail

    def _next(self, given: bytes, most: int) -> bytes:
        try:
            return self._zlib.decompress(given, most)
        except zlib.error:
            where = "the data after its end is not gzip" if self._ended else "it is damaged or not gzip"
            raise BadGzip(where) from None

    def _end(self) -> None:
        self._ended += 1
        if self._ended >= MOST_MEMBERS:
            raise BadGzip(f"more than {MOST_MEMBERS} members; compress it as one")
        self._begin()

    def _begin(self) -> None:
        self._zlib, self._fresh, self._at_a_time = zlib.decompressobj(wbits=31), True, _FIRST


_SOCKETS = ("gunicorn.socket", "werkzeug.socket")


def watch_peer(environ: Mapping[str, Any]) -> Callable[[], bool]:
    """Return a function that says whether the client has hung up; it reads nothing from the socket.

    If the server does not expose the socket, it always returns False.
    """
    sock = next((environ[name] for name in _SOCKETS if isinstance(environ.get(name), socket.socket)), None)
    if sock is None:
        return lambda: False
    return lambda: _hung_up(sock)


def _hung_up(sock: socket.socket) -> bool:
    try:
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        if not poll.poll(0):
            return False
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except (OSError, ValueError):
        return True


_PIECE = 64 * 1024  # bytes
_LOOK_EVERY = 16  # decompressed pieces between two checks for a client that has hung up
TOO_LARGE = 413
ONE_TASK = "send less, or ask the operator to raise [api] max_task_body"  # hint for a task that is too large
_HEARD_OUT = (
    64 * 1024 * 1024
)  # bytes of an oversized body read and discarded, so that the client receives the response


def read_body(most: int, hint: str = "send less") -> bytes:
    """Return the whole body. Raises Invalid: 413 above `most` bytes, with `hint`; 400 if it is incomplete;
    408 if it arrives too slowly.
    """
    try:
        return b"".join(pieces(most))
    except Invalid as error:
        if error.status != TOO_LARGE:
            raise
        raise Invalid(f"{error.message}: {hint}", code=error.code, status=TOO_LARGE) from None


def read_model(model: type[M], most: int = SMALL_BODY, *, optional: bool = False) -> M:
    """Read a JSON body of at most `most` bytes into a model; an `optional` body may be empty. Raises Invalid."""
    raw = read_body(most)
    return parse(model, parse_json(raw) if raw.strip() or not optional else {})


def pieces(most: int) -> Iterator[bytes]:
    """Yield the body in pieces, decompressed from gzip if necessary. Raises like read_body, and 415."""
    encoding = request_ctx.request.environ.get("HTTP_CONTENT_ENCODING", "").strip().lower()
    if encoding in ("", "identity"):
        return _as_sent(most)
    if encoding in ("gzip", "x-gzip"):
        return _decompressed(_as_sent(most), most)
    raise Invalid(
        "Content-Encoding: only gzip or none is supported",
        param="Content-Encoding",
        code="unsupported_media_type",
        status=415,
    )


def is_compressed() -> bool:
    """Whether the body is compressed, so that Content-Length does not bound its size."""
    return bool(request_ctx.request.environ.get("HTTP_CONTENT_ENCODING"))


def _decompressed(packed: Iterable[bytes], most: int) -> Iterator[bytes]:
    """Decompress one piece at a time, up to `most` bytes in all, as protection from decompression bombs.

    Stops when the client hangs up: a bomb is received long before it is decompressed.
    """
    members, read, hung_up = Members(), 0, watch_peer(request_ctx.request.environ)
    for count, out in enumerate(_members(packed, members), 1):
        read += len(out)
        if read > most:
            raise _too_large(most)
        if count % _LOOK_EVERY == 0 and hung_up():
            raise _incomplete()
        yield out
    if not members.whole:
        raise _incomplete()


def _members(packed: Iterable[bytes], members: Members) -> Iterator[bytes]:
    try:
        for piece in packed:
            yield from members.unpack(piece, _PIECE)
    except BadGzip as error:
        raise Invalid(f"the body is not well-formed gzip: {error}", code="malformed_body") from None


def _as_sent(most: int) -> Iterator[bytes]:
    asked = request_ctx.request
    asked.max_content_length = most
    length = asked.content_length
    if (length or 0) > most:
        raise _too_large(most)
    read = 0
    while (length is None or read < length) and (piece := _next_piece(asked, most, length, read)):
        read += len(piece)
        if read > most:
            raise _too_large(most)
        yield piece
    if length is not None and read < length:
        raise _incomplete()


def _next_piece(asked: Request, most: int, length: int | None, read: int) -> bytes:
    """With a Content-Length, read no further than that, directly from the server: werkzeug need not enforce it."""
    try:
        if length is None:
            return asked.stream.read(_PIECE)
        piece: bytes = asked.environ["wsgi.input"].read(min(_PIECE, length - read))
        return piece
    except RequestEntityTooLarge:
        raise _too_large(most) from None
    except SlowClient:
        raise Invalid(
            "the body arrived too slowly; send it again", code="request_timeout", status=408
        ) from None
    except (ClientDisconnected, OSError) as error:
        raise _incomplete() from error
    except Exception as error:
        if type(error).__module__.startswith("gunicorn.http"):  # a malformed chunk, say
            raise Invalid("the body is not well-formed HTTP", code="malformed_body") from error
        raise


def _too_large(most: int) -> Invalid:
    """The error, after discarding some of the rest: a client that is still sending would not read the response."""
    environ = request_ctx.request.environ
    if environ.get("wsgi.input_terminated"):
        with suppress(Exception):
            left = _HEARD_OUT
            while left > 0 and (piece := environ["wsgi.input"].read(_PIECE)):
                left -= len(piece)
    return Invalid(f"the body is larger than {most} bytes", code="request_too_large", status=TOO_LARGE)


def _incomplete() -> Invalid:
    return Invalid(
        "the body is incomplete: the connection ended before all of it arrived", code="incomplete_body"
    )


_LONGEST_FIELD = 4096  # bytes
_MOST_PARTS = 20
_MOST_AROUND = 64 * 1024  # bytes buffered outside the parts' data: headers, preamble and epilogue


class Sink(Protocol):
    """Takes the bytes of an uploaded file."""

    def write(self, data: bytes) -> None:
        """Add the next bytes."""


def boundary() -> bytes:
    """Return the multipart boundary of the current request. Raises Invalid if it is not a form."""
    kind, options = parse_options_header(request.headers.get("Content-Type", ""))
    if kind != "multipart/form-data" or not options.get("boundary"):
        raise Invalid(
            "expected a form; send it as Content-Type: multipart/form-data", code="invalid_content_type"
        )
    return options["boundary"].encode("latin-1", "replace")


def read_form(received: Iterable[bytes], mark: bytes, open_file: Callable[[str], Sink]) -> dict[str, str]:
    """Read a form and return its fields. `open_file` receives the name of its one file.

    Raises Invalid if the form is malformed or incomplete, or has not exactly one file.
    """
    reading = _Reading(open_file)
    for said in _events(received, mark):
        reading.take(said)
        if isinstance(said, Epilogue):
            return reading.fields()
    raise Invalid("the form is incomplete: its closing boundary is missing", code="incomplete_body")


class _Reading:
    def __init__(self, open_file: Callable[[str], Sink]) -> None:
        self._open_file = open_file
        self._fields: dict[str, bytearray] = {}
        self._field: bytearray | None = None
        self._sink: Sink | None = None
        self._in_file = False

    def take(self, said: Event) -> None:
        if isinstance(said, FormField):
            self._in_file = False
            self._field = self._fields.setdefault(said.name, bytearray())
        elif isinstance(said, File):
            self._begin_file(said)
        elif isinstance(said, Data):
            self._add(said.data)

    def fields(self) -> dict[str, str]:
        if self._sink is None:
            raise Invalid("file: is required", param="file", code="missing_field")
        try:
            return {name: value.decode() for name, value in self._fields.items()}
        except UnicodeDecodeError:
            raise Invalid("the form's fields must be UTF-8", code="invalid_value") from None

    def _begin_file(self, said: File) -> None:
        if said.name != "file" or self._sink is not None:
            raise Invalid(
                "exactly one file is expected, in the field file", param="file", code="invalid_value"
            )
        self._in_file = True
        self._sink = self._open_file(said.filename)

    def _add(self, data: bytes) -> None:
        if self._in_file and self._sink is not None:
            self._sink.write(data)
        elif self._field is not None:
            self._field += data
            if len(self._field) > _LONGEST_FIELD:
                raise Invalid(
                    f"a field of the form is longer than {_LONGEST_FIELD} bytes",
                    code="request_too_large",
                    status=413,
                )


def _events(received: Iterable[bytes], mark: bytes) -> Iterator[Event]:
    decoder = MultipartDecoder(mark, max_parts=_MOST_PARTS)
    try:
        for piece in _ended(received):
            decoder.receive_data(piece)
            while not isinstance(said := decoder.next_event(), NeedData):
                yield said
                if isinstance(said, Epilogue):
                    return
            _check_held(decoder)
    except RequestEntityTooLarge:
        raise Invalid(
            f"the form has more than {_MOST_PARTS} parts", code="request_too_large", status=413
        ) from None
    except ValueError:
        raise Invalid("the form is malformed or incomplete", code="incomplete_body") from None


def _check_held(decoder: MultipartDecoder) -> None:
    """The decoder buffers possible boundaries, and everything that is not data of a part until it is complete."""
    if len(decoder.buffer) > _MOST_AROUND:
        message = (
            f"the form holds more than {_MOST_AROUND} bytes in the headers of a part or around the parts"
        )
        raise Invalid(message, code="request_too_large", status=413)


def _ended(received: Iterable[bytes]) -> Iterator[bytes | None]:
    yield from received
    yield None


Q = TypeVar("Q", bound=BaseModel)
B = TypeVar("B", bound=BaseModel)


def _seconds(value: object) -> float:
    if not isinstance(value, int | float | str):
        refuse("must be a number of seconds")
    return parse_duration(value)


Seconds = Annotated[float, BeforeValidator(_seconds), WithJsonSchema({"type": "number", "minimum": 0})]


class Query(BaseModel):
    """A query string: values arrive as text, and unknown names are refused."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _few_names(cls, value: Any) -> Any:
        return few_names(value)


class WaitQuery(Query):
    """How to wait for a task."""

    wait: Seconds = Field(
        0.0, description="Seconds to wait for the task to end before answering; at most 60."
    )


class TasksQuery(Query):
    """Which tasks to list."""

    status: Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"] | None = Field(
        None, description="Only tasks with this status."
    )
    reason: str | None = Field(None, description="Only tasks that ended with this error code.")
    batch_id: str | None = Field(None, description="Only tasks of this batch.")
    after: str | None = Field(None, description="The last id of the previous page.")
    limit: int = Field(20, ge=1, le=100, description="Page size, at most 100.")


def read_query(model: type[Q]) -> Q:
    """Check the query string. Raises Invalid that names the parameter."""
    return parse(model, _single_values())


def read_batch_options() -> BatchOptions:
    """The options of a JSON Lines batch, from the query string. `metadata` is only accepted in JSON bodies."""
    values: dict[str, object] = {**option_headers(request.headers.items()), **_single_values()}
    values.pop("dry_run", None)
    size = values.get("batch_size")
    if isinstance(size, str) and size.isascii() and size.isdigit():
        values["batch_size"] = int(size[:9])
    return parse(BatchOptions, values)


def header_options(model: type[B]) -> B:
    """Options of the request that came in headers, such as `x-penstock-priority`. Raises Invalid."""
    return parse(model, option_headers(request.headers.items()), within="penstock")


def _single_values() -> dict[str, str]:
    values: dict[str, str] = {}
    for name, given in request.args.lists():
        if len(given) > 1:
            raise Invalid(f"{name}: is given {len(given)} times", param=name, code="invalid_value")
        values[name] = given[0]
    return values
