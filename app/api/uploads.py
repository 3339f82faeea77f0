"""multipart/form-data as it comes in: fields into memory, the file into the hands of whoever takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from flask import request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from app.platform.domain.errors import Invalid

_LONGEST_FIELD = 4096  # bytes
_MOST_PARTS = 20
_MOST_AROUND = (
    64 * 1024
)  # bytes held that are no part's data: its head, and what stands before and behind all parts


class Sink(Protocol):
    """What takes a file's bytes."""

    def write(self, data: bytes) -> None:
        """Go on with the next ones."""


def boundary() -> bytes:
    """The boundary of the request that is being served. Raises Invalid when it is no form."""
    kind, options = parse_options_header(request.headers.get("Content-Type", ""))
    if kind != "multipart/form-data" or not options.get("boundary"):
        raise Invalid("a form is expected: Content-Type: multipart/form-data", code="invalid_content_type")
    return options["boundary"].encode("latin-1", "replace")


def read_form(received: Iterable[bytes], mark: bytes, open_file: Callable[[str], Sink]) -> dict[str, str]:
    """Read a form to its end; gives back its fields. `open_file` is told the name of the one file in it.

    Raises Invalid for what is no form, is cut off, or has another number of files.
    """
    reading = _Reading(open_file)
    for said in _events(received, mark):
        reading.take(said)
        if isinstance(said, Epilogue):
            return reading.fields()
    raise Invalid("the form broke off before its end", code="incomplete_body")


class _Reading:
    def __init__(self, open_file: Callable[[str], Sink]) -> None:
        self._open_file = open_file
        self._fields: dict[str, bytearray] = {}
        self._field: bytearray | None = None
        self._sink: Sink | None = None
        self._in_file = False

    def take(self, said: Event) -> None:
        if isinstance(said, Field):
            self._in_file = False
            self._field = self._fields.setdefault(said.name, bytearray())
        elif isinstance(said, File):
            self._begin_file(said)
        elif isinstance(said, Data):
            self._add(said.data)

    def fields(self) -> dict[str, str]:
        if self._sink is None:
            raise Invalid("file: is needed", param="file", code="missing_field")
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
                raise Invalid("a field of the form is too long", code="request_too_large", status=413)


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
        raise Invalid("the form has too many parts", code="request_too_large", status=413) from None
    except ValueError:
        raise Invalid("the form is malformed, or broke off before its end", code="incomplete_body") from None


def _check_held(decoder: MultipartDecoder) -> None:
    """Of data the decoder holds what may be a boundary; of all else, until it is whole."""
    if len(decoder.buffer) > _MOST_AROUND:
        message = f"the form holds more than {_MOST_AROUND} bytes in the head of a part, or around the parts"
        raise Invalid(message, code="request_too_large", status=413)


def _ended(received: Iterable[bytes]) -> Iterator[bytes | None]:
    yield from received
    yield None
