"""An answer that comes in pieces: each is passed on as it comes, and the whole is put together for the record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from app.platform.domain.event_stream import DONE, EventReader
from app.platform.domain.json_text import read_json
from app.upstreams.domain.chat_stream import Assembly
from app.upstreams.domain.reply import TransportError, TransportErrorKind
from app.upstreams.upstream_answer import HttpResponse
from app.upstreams.upstream_call import IncompleteCall

PassOn = Callable[[bytes], None]  # takes a chunk's JSON
_AFTER_DONE = 1.0  # seconds for an upstream to end its body once it has said that it is done


class StreamReading:
    """Reads one streamed answer. `shown`: something was passed on."""

    def __init__(self, most: int, pass_on: PassOn) -> None:
        """`most` bytes of events."""
        self._most = most
        self._pass_on = pass_on
        self._events = EventReader()
        self._assembly = Assembly()
        self._error: bytes | None = None
        self._done = False
        self.shown = False

    def read(self, answer: HttpResponse) -> bytes:
        """The whole answer as JSON, or the error that the upstream sent in its place or amidst it.

        Raises IncompleteCall when it is cut off, also without a word.
        """
        try:
            self._read_events(answer)
        except IncompleteCall:
            if not (self._done and self._assembly.finished):
                raise
        if self._error is not None:
            return self._error
        if not self._assembly.finished:
            raise answer.failed(
                TransportError(TransportErrorKind.CUT, "The upstream's stream ended before its answer did.")
            )
        return orjson.dumps(self._assembly.completion())

    def _read_events(self, answer: HttpResponse) -> None:
        size = 0
        for received in answer.chunks():
            size += len(received)
            if size > self._most:
                words = f"The upstream's answer is larger than {self._most} bytes."
                raise answer.failed(TransportError(TransportErrorKind.TOO_LARGE, words))
            for data in self._events.feed(received):
                self._take(data, answer)
            if self._error is not None:
                return

    def _take(self, data: bytes, answer: HttpResponse) -> None:
        """One event. Nothing counts after an error or the end."""
        if self._done or self._error is not None:
            return
        if data == DONE:
            self._done = True
            answer.hurry(_AFTER_DONE)
            return
        chunk, text = _parsed(data, answer)
        if chunk.get("error"):
            self._error = data
            return
        self._assembly.add(chunk)
        self.shown = True
        self._pass_on(text.encode())


def _parsed(data: bytes, answer: HttpResponse) -> tuple[Mapping[str, Any], str]:
    try:
        chunk, text = read_json(data, orjson.loads)
    except ValueError:
        chunk, text = None, ""
    if not isinstance(chunk, Mapping):
        raise answer.failed(
            TransportError(
                TransportErrorKind.CUT, "The upstream's stream holds something that is not a JSON object."
            )
        )
    return chunk, text
