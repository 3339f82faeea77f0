"""Pass a streamed answer on from the worker to the client that waits for it.

1. Listen to the task's stream, then store the task: nothing of its answer can be missed.
2. While it is queued, say now and then that the connection lives.
3. Pass its chunks on as they come. They are numbered: a gap ends the stream with an error.
4. Its end is the task's: the row says how. Where nothing was passed on (a kept answer, an upstream that does not
   stream, a listener that came late) the whole answer is passed on then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.platform.domain.errors import DatabaseUnreachable, RedisUnreachable
from app.platform.ports import Clock
from app.submission.answer_chat import LOOK_EVERY, BeginChat, Chat, ChatCall
from app.tasks.domain.task import Status, new_id
from app.tasks.domain.views import failure_status
from app.tasks.read_tasks import ReadTasks
from app.tasks.store.tasks import TaskRow
from app.tasks.wait import Waiters
from app.upstreams.answer_streams import StreamReader, Subscription
from app.upstreams.domain.chat_stream import Piece, chunks_of

ALIVE_EVERY = 10.0  # seconds between signs of life
HEAD_SECONDS = 3.0  # for which the head is held back: what fails at once fails with a status of its own
_SILENCE = 5.0  # seconds without a chunk, after which the row is asked whether its run still goes on
_TRAILING = 5.0  # seconds for the last chunks after the news of the end: the two come on ways of their own


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of the answer."""

    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Alive:
    """Nothing new, but still there."""


@dataclass(frozen=True, slots=True)
class Done:
    """The answer is whole."""


@dataclass(frozen=True, slots=True)
class Broken:
    """It will not be whole. `status` is what to answer while nothing was sent."""

    status: int
    type: str
    code: str
    message: str


Event = Chunk | Alive | Done | Broken

_GAP = Broken(
    500, "server_error", "stream_gap", "a part of the stream was lost; the whole answer is kept with the task"
)
_ANEW = Broken(500, "server_error", "stream_interrupted", "the call was interrupted amidst its answer")
_CLOSING = Broken(503, "server_error", "restarting", "the service is restarting; try again")


@dataclass(slots=True)
class Streaming:
    """A stream on its way. Whoever has it must take all `events`, or close them, and `finish` the chat."""

    chat: Chat
    events: Iterator[Event]
    _stack: ExitStack = field(repr=False)

    def finish(self, *, answered: bool, repeats: bool) -> None:
        """Hear nothing more, and say how it ended."""
        self._stack.close()
        self.chat.finish(answered=answered, repeats=repeats)


class StreamChat:
    """The use case of a call that is answered in pieces."""

    def __init__(
        self, begin: BeginChat, reader: ReadTasks, waiters: Waiters, streams: StreamReader, clock: Clock
    ) -> None:
        self._begin = begin
        self._reader = reader
        self._waiters = waiters
        self._streams = streams
        self._clock = clock

    def stream(self, call: ChatCall) -> Streaming:
        """Take a call in. Raises Invalid, TooManyWaiting, DatabaseUnreachable."""
        task_id = new_id("task", self._clock.now())
        stack = ExitStack()
        try:
            listened = self._listen(stack, task_id)
            chat = self._begin.begin(call, task_id)
        except BaseException:
            stack.close()
            raise
        if chat.task_id != task_id:
            listened = self._listen(stack, chat.task_id)
        run = _Run(chat, listened, self._reader, self._waiters, self._clock)
        return Streaming(chat, run.events(), stack)

    def _listen(self, stack: ExitStack, task_id: str) -> Subscription | None:
        """None without Redis: the answer is passed on whole when it has come."""
        try:
            return stack.enter_context(self._streams.listen(task_id))
        except RedisUnreachable:
            return None


class _Run:
    """One stream: what has come of it, and what comes next."""

    def __init__(
        self,
        chat: Chat,
        listened: Subscription | None,
        reader: ReadTasks,
        waiters: Waiters,
        clock: Clock,
    ) -> None:
        self._chat = chat
        self._listened = listened
        self._reader = reader
        self._waiters = waiters
        self._clock = clock
        self._release: int | None = None  # whose chunks are passed on
        self._next = 0
        self._over = False
        self._heard_at = clock.monotonic()
        patience = chat.call.patience.seconds
        self._alive_every = min(ALIVE_EVERY, patience / 2)
        self._alive_at = self._heard_at + min(HEAD_SECONDS, patience / 2)

    @property
    def _shown(self) -> bool:
        return self._next > 0

    def events(self) -> Iterator[Event]:
        """Until the client has hung up, or Done or Broken is said."""
        yield from self._look()
        while not self._over and not self._chat.call.gone():
            piece = self._piece(min(LOOK_EVERY, max(0.02, self._alive_at - self._clock.monotonic())))
            if piece is not None:
                yield from self._heard(piece)
            elif self._chat.bell.is_set() or self._is_silent:
                self._chat.bell.clear()
                yield from self._look()
            elif self._waiters.closed and not self._shown:
                yield self._ended(_CLOSING)
            if not self._over and self._clock.monotonic() >= self._alive_at:
                self._alive_at = self._clock.monotonic() + self._alive_every
                yield Alive()

    def _ended(self, event: Event) -> Event:
        self._over = True
        return event

    @property
    def _is_silent(self) -> bool:
        return self._shown and self._clock.monotonic() - self._heard_at >= _SILENCE

    def _piece(self, seconds: float) -> Piece | None:
        """The next piece; None when none has come within so many seconds, or at once when the bell has rung."""
        if self._listened is None:
            self._chat.bell.wait(seconds)
            return None
        try:
            return self._listened.next(0.01 if self._chat.bell.is_set() else seconds)
        except RedisUnreachable:
            self._listened = None
            return None

    def _heard(self, piece: Piece) -> Iterator[Event]:
        self._heard_at = self._clock.monotonic()
        if piece.data is None:
            yield from self._run_over(piece)
        elif piece.release == self._release and piece.number == self._next:
            yield self._chunk(piece.data)
        elif self._shown:
            yield self._ended(_GAP if piece.release == self._release else _ANEW)
        elif piece.number == 0:
            self._release = piece.release
            yield self._chunk(piece.data)

    def _chunk(self, data: bytes) -> Event:
        self._next += 1
        self._alive_at = self._clock.monotonic() + self._alive_every
        return Chunk(orjson.loads(data))

    def _run_over(self, end: Piece) -> Iterator[Event]:
        if self._shown and (end.release, end.number) != (self._release, self._next):
            yield self._ended(_GAP)
        else:
            yield from self._look(all_heard=True)

    def _look(self, *, all_heard: bool = False) -> Iterator[Event]:
        """Ask the row how things stand."""
        try:
            row = self._reader.task(self._chat.call.client_id, self._chat.task_id)
        except DatabaseUnreachable:
            return
        self._heard_at = self._clock.monotonic()
        if row.status is Status.SUCCEEDED:
            yield from self._succeeded(row, all_heard=all_heard)
        elif row.status.ended:
            yield self._ended(failure_of(row))
        elif row.status is Status.QUEUED and self._shown:
            yield self._ended(_ANEW)

    def _succeeded(self, row: TaskRow, *, all_heard: bool) -> Iterator[Event]:
        if not all_heard:
            yield from self._trailing()
            if self._over:
                return
        if self._shown and not all_heard:
            yield self._ended(_GAP)
            return
        if not self._shown:
            yield from (Chunk(chunk) for chunk in chunks_of(orjson.loads(row.result or "{}")))
        yield self._ended(Done())

    def _trailing(self) -> Iterator[Event]:
        """Chunks that were on their way when the news of the end came."""
        while self._listened is not None and not self._over:
            piece = self._piece(_TRAILING if self._shown else 0.05)
            if piece is None:
                return
            yield from self._heard(piece)


def failure_of(row: TaskRow) -> Broken:
    """What a task that came to no result is answered with."""
    code = row.error_code or str(row.status)
    message = row.error_message or f"the task was {row.status} before it had a result"
    return Broken(failure_status(code), row.error_type or "server_error", code, message)
