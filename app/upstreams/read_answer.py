"""Reads an answer for what it is, JSON or events, and passes the chunks of a stream on as they arrive."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import orjson
from jsonschema_rs import RegexOptions, validator_for

from app.platform.domain.event_stream import DONE, EventReader, ReadEvent
from app.platform.domain.json_text import as_utf8, read_json
from app.upstreams.domain.chat_stream import Assembly
from app.upstreams.domain.reply import TransportError, TransportErrorKind
from app.upstreams.domain.upstream_error import ErrorShape, is_error, says_error
from app.upstreams.upstream_call import HttpResponse, IncompleteCall

PassOn = Callable[[bytes], None]  # takes a chunk's JSON
_AFTER_DONE = 1.0  # seconds for an upstream to end its body after [DONE]
_SNIFFED = 16  # bytes of a body that show what it is
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")  # a body of events begins with one of them
_OPENING = (b"{", b"[", b"<")  # JSON, or a page of some proxy


class AnswerReading:
    """Reads one answer in the calling thread, as JSON or as events, whichever it is: its content type may be wrong.

    Chunks of a stream are handed to `pass_on`. The first are held back until there is something to show, so that an
    answer that comes to nothing can be asked for again. `shown`: something was passed on.
    """

    def __init__(self, max_bytes: int, shape: ErrorShape, pass_on: PassOn | None = None) -> None:
        """`shape`: of the upstream's errors."""
        self._max_bytes = max_bytes
        self._shape = shape
        self._pass_on = pass_on
        self._events = EventReader()
        self._assembly = Assembly()
        self._error: bytes | None = None
        self._words = b""  # of events without a chunk: an error's, if the answer does not become complete
        self._done = False
        self._held: list[bytes] = []
        self.shown = False

    def read(self, answer: HttpResponse) -> bytes:
        """The whole answer as JSON, or the error that the upstream sent instead or in between.

        Raises IncompleteCall if it ends early.
        """
        received = answer.bounded(self._max_bytes)
        begun = _begin(received)
        if _is_events(begun, answer):
            return self._streamed(itertools.chain([begun], received), answer)
        body = b"".join((begun, *received))
        return self._lines(body) or as_utf8(body, answer.charset)

    def _streamed(self, received: Iterable[bytes], answer: HttpResponse) -> bytes:
        try:
            self._read_events(received, answer)
        except IncompleteCall:
            if not self._assembly.finished:
                raise
        if self._error is not None:
            return self._error
        if (last := self._assembly.end(done=self._done)) is not None:
            self._show(orjson.dumps(last))
        if self._assembly.finished:
            return orjson.dumps(self._assembly.completion())
        if self._words:
            return self._words
        raise answer.failed(
            TransportError(
                TransportErrorKind.CUT, "The upstream's stream ended before its answer was complete."
            )
        )

    def _lines(self, body: bytes) -> bytes | None:
        """A body of several JSON documents, one a line, as some send a stream; None if it is not that."""
        first, _, rest = body.partition(b"\n")
        if b'"delta"' not in first or not rest.strip() or _parsed(first) is None:
            return None
        for event in (*self._events.feed(body), *self._events.close()):
            if (chunk := _parsed(event.data)) is not None:
                self._assembly.add(chunk)
        return orjson.dumps(self._assembly.completion()) if self._assembly.finished else None

    def _read_events(self, received: Iterable[bytes], answer: HttpResponse) -> None:
        for part in received:
            for event in self._events.feed(part):
                self._take(event, answer)
            if self._error is not None:
                return
        for event in self._events.close():
            self._take(event, answer)

    def _take(self, event: ReadEvent, answer: HttpResponse) -> None:
        """Handle one event. Events after an error or [DONE] are ignored, and so is what holds no chunk."""
        if self._done or self._error is not None:
            return
        data = event.data.strip()
        if data.strip(b'"').upper() == DONE:
            self._done = True
            answer.hurry(_AFTER_DONE)
        elif (chunk := _parsed(data)) is not None:
            self._take_chunk(chunk, event, answer)
        elif data.startswith(_OPENING[:2]) and not self._is_complete:
            words = "The upstream's stream contained something other than a JSON object."
            raise answer.failed(TransportError(TransportErrorKind.CUT, words))
        elif event.name == "error":
            self._error = None if self._assembly.succeeded else data
        else:
            self._words = self._words or data

    @property
    def _is_complete(self) -> bool:
        return self._done or self._assembly.finished

    def _take_chunk(self, chunk: Mapping[str, Any], event: ReadEvent, answer: HttpResponse) -> None:
        if event.name == "error" or says_error(chunk, self._shape):
            self._error = None if self._assembly.succeeded else event.data  # a whole answer was paid for
        elif not chunk.get("choices") and is_error(chunk, self._shape):
            self._words = event.data  # it may be a heartbeat: an error if nothing better follows
        elif (shown := self._assembly.add(chunk)) is not None:
            self._show(orjson.dumps(shown))
        if self._assembly.closed:
            answer.hurry(_AFTER_DONE)

    def _show(self, chunk: bytes) -> None:
        if self._pass_on is None:
            return
        self._held.append(chunk)
        if self.shown or self._assembly.has_substance:
            self.shown = True
            for held in self._held:
                self._pass_on(held)
            self._held.clear()


_REGEX = RegexOptions(size_limit=1 << 20, dfa_size_limit=1 << 20)  # in linear time, whatever a client writes


def json_check(request: str) -> Callable[[str], bool] | None:
    """Whether a text is the JSON that a request asks for: its `response_format`. None if it asks for none.

    A schema that is none, or that refers to elsewhere, is not looked at: then any object will do.
    """
    if '"response_format"' not in request:
        return None
    wanted = orjson.loads(request).get("response_format")
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if kind == "json_object":
        return _is_object
    if kind != "json_schema":
        return None
    named = wanted.get("json_schema")
    schema = named.get("schema") if isinstance(named, Mapping) else None
    return _schema_check(orjson.dumps(schema)) if isinstance(schema, Mapping) else _is_object


@lru_cache(maxsize=64)
def _schema_check(schema: bytes) -> Callable[[str], bool]:
    """For a schema as JSON text; a batch has one for all its lines."""
    try:
        validator = validator_for(orjson.loads(schema), offline=True, pattern_options=_REGEX)
    except ValueError:
        return _is_object

    def fits(text: str) -> bool:
        try:
            return validator.is_valid(orjson.loads(text))
        except ValueError:
            return False

    return fits


def _is_object(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except ValueError:
        return False


def _begin(received: Iterator[bytes]) -> bytes:
    """The beginning of a body, enough to see what it is."""
    begun = b""
    for part in received:
        begun = (begun + part).lstrip()  # some send blank lines while they work
        if len(begun) >= _SNIFFED:
            break
    return begun


def _is_events(begun: bytes, answer: HttpResponse) -> bool:
    text = begun.removeprefix(codecs.BOM_UTF8).lstrip()
    if text.startswith(_FIELDS):
        return True
    is_named = answer.headers.get("content-type", "").lower().startswith("text/event-stream")
    return is_named and answer.status == 200 and not text.startswith(_OPENING)


def _parsed(data: bytes) -> Mapping[str, Any] | None:
    """The object in an event; of a list, its first, as some send errors."""
    try:
        document, _ = read_json(data, orjson.loads)
    except ValueError:
        return None
    if isinstance(document, list) and document:
        document = document[0]
    return document if isinstance(document, Mapping) else None
