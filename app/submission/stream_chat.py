"""Stream an answer from the worker to the client that waits for it.

1. Subscribe to the task's stream, then store the task: no part of its answer can be missed.
2. While it is queued, send a keep-alive now and then.
3. Pass on its chunks as they come. They are numbered: a gap ends the stream with an error.
4. The stream ends with the task; its row says how. If nothing was streamed (a cached answer, an upstream that does not
   stream, a late subscription), send the whole answer then.

A stream belongs to the thread of its request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.platform.domain.errors import DatabaseUnreachable, RedisUnreachable
from app.platform.ports import Clock
from app.submission.answer_chat import LOOK_EVERY, BeginChat, Chat, ChatCall
from app.tasks.domain.rows import TaskRow
from app.tasks.domain.task import Status, failure_status, new_id
from app.tasks.read_tasks import ReadTasks
from app.tasks.views import openai_error
from app.tasks.wait import Waiters
from app.upstreams.answer_streams import StreamReader, Subscription
from app.upstreams.domain.chat_stream import Piece, chunks_of

ALIVE_EVERY = 10.0  # seconds between keep-alives
HEAD_SECONDS = 3.0  # delay before the response head, so that an early failure gets its own status
_SILENCE = 5.0  # seconds without a chunk before the row is read to see whether the task still runs
_DRAIN_SECONDS = 5.0  # seconds for the last chunks after the end was signalled: the two travel separately


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of the answer."""

    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Alive:
    """A keep-alive."""


@dataclass(frozen=True, slots=True)
class Done:
    """The answer is complete."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The answer will not be complete. `status`: the HTTP status, if nothing was sent yet."""

    status: int
    type: str
    code: str
    message: str
    param: str | None = None


Event = Chunk | Alive | Done | Broken

_GAP = Broken(
    500, "server_error", "stream_gap", "a part of the stream was lost; read the whole answer from the task"
)
_INTERRUPTED = Broken(
    500, "server_error", "stream_interrupted", "the call was interrupted during its answer; try again"
)
NO_KEY = Broken(
    503,
    "server_error",
    "no_key_available",
    "every key for this model is refused or unpaid at its provider, and an alert has been raised: try again later, or "
    "submit to /v1/tasks, where the task waits",
)
_CLOSING = Broken(503, "server_error", "restarting", "the service is restarting; try again")


@dataclass(slots=True)
class Streaming:
    """A running stream. The thread that holds it must consume or close `events`, then `finish`."""

    chat: Chat
    events: Iterator[Event]
    row: Callable[[], TaskRow | None]  # its task, as last read
    _stack: ExitStack = field(repr=False)

    def finish(self, *, answered: bool, repeats: bool) -> None:
        """Unsubscribe, and record how it ended."""
        self._stack.close()
        self.chat.finish(answered=answered, repeats=repeats)


class StreamChat:
    """Answers a call as a stream. Used by all request threads."""

    def __init__(
        self, begin: BeginChat, reader: ReadTasks, waiters: Waiters, streams: StreamReader, clock: Clock
    ) -> None:
        self._begin = begin
        self._reader = reader
        self._waiters = waiters
        self._streams = streams
        self._clock = clock

    def stream(self, call: ChatCall) -> Streaming:
        """Accept a call. Raises Invalid, TooManyWaiting, DatabaseUnreachable."""
        task_id = new_id("task", self._clock.now())
        stack = ExitStack()
        try:
            subscription = self._subscribe(stack, task_id)
            chat = self._begin.begin(call, task_id)
        except BaseException:
            stack.close()
            raise
        if chat.task_id != task_id:
            subscription = self._subscribe(stack, chat.task_id)
        run = _Run(chat, subscription, self._reader, self._waiters, self._clock)
        return Streaming(chat, run.events(), lambda: run.row, stack)

    def _subscribe(self, stack: ExitStack, task_id: str) -> Subscription | None:
        """Subscribe. None without Redis: the answer is sent whole at the end."""
        try:
            return stack.enter_context(self._streams.listen(task_id))
        except RedisUnreachable:
            return None


class _Run:
    """The state of one stream."""

    def __init__(
        self, chat: Chat, subscription: Subscription | None, reader: ReadTasks, waiters: Waiters, clock: Clock
    ) -> None:
        self._chat = chat
        self._subscription = subscription
        self._reader = reader
        self._waiters = waiters
        self._clock = clock
        self._release: int | None = None  # the release whose chunks are passed on
        self._next = 0
        self._over = False
        self.row: TaskRow | None = None
        self._last_at = clock.monotonic()
        patience = chat.call.patience.seconds
        self._alive_every = min(ALIVE_EVERY, patience / 2)
        self._alive_at = self._last_at + min(HEAD_SECONDS, patience / 2)

    @property
    def _started(self) -> bool:
        return self._next > 0

    def events(self) -> Iterator[Event]:
        """Events until Done or Broken, or until the client has disconnected."""
        yield from self._look()
        while not self._over and not self._chat.call.gone():
            piece = self._piece(min(LOOK_EVERY, max(0.02, self._alive_at - self._clock.monotonic())))
            if piece is not None:
                yield from self._received(piece)
            elif self._chat.wakeup.is_set() or self._is_silent:
                self._chat.wakeup.clear()
                yield from self._look()
            elif self._waiters.closed and not self._started:
                yield self._ended(_CLOSING)
            elif self._has_no_key:
                yield from self._without_key()
            if not self._over and self._clock.monotonic() >= self._alive_at:
                self._alive_at = self._clock.monotonic() + self._alive_every
                yield Alive()

    @property
    def _has_no_key(self) -> bool:
        if self._started or self.row is None:
            return False
        return self._chat.has_no_key(self.row.model, self._clock.monotonic())

    def _without_key(self) -> Iterator[Event]:
        yield from self._look()
        if not self._over and self.row is not None and self.row.status is Status.QUEUED:
            yield self._ended(NO_KEY)

    def _ended(self, event: Event) -> Event:
        self._over = True
        return event

    @property
    def _is_silent(self) -> bool:
        return self._started and self._clock.monotonic() - self._last_at >= _SILENCE

    def _piece(self, seconds: float) -> Piece | None:
        """The next piece; None if none came within so many seconds, or at once if the end was signalled."""
        if self._subscription is None:
            self._chat.wakeup.wait(seconds)
            return None
        try:
            return self._subscription.next(0.01 if self._chat.wakeup.is_set() else seconds)
        except RedisUnreachable:
            self._subscription = None
            return None

    def _received(self, piece: Piece) -> Iterator[Event]:
        self._last_at = self._clock.monotonic()
        if piece.data is None:
            yield from self._run_over(piece)
        elif piece.release == self._release and piece.number == self._next:
            yield self._chunk(piece.data)
        elif self._started:
            yield self._ended(_GAP if piece.release == self._release else _INTERRUPTED)
        elif piece.number == 0:
            self._release = piece.release
            yield self._chunk(piece.data)

    def _chunk(self, data: bytes) -> Event:
        self._next += 1
        self._alive_at = self._clock.monotonic() + self._alive_every
        return Chunk(orjson.loads(data))

    def _run_over(self, end: Piece) -> Iterator[Event]:
        if self._started and (end.release, end.number) != (self._release, self._next):
            yield self._ended(_GAP)
        else:
            yield from self._look(complete=True)

    def _look(self, *, complete: bool = False) -> Iterator[Event]:
        """Read the row and act on its status."""
        try:
            row = self._reader.task(self._chat.call.client_id, self._chat.task_id)
        except DatabaseUnreachable:
            return
        self.row = row
        self._last_at = self._clock.monotonic()
        if row.status is Status.SUCCEEDED or row.result is not None:  # a filtered answer, too
            yield from self._succeeded(row, complete=complete)
        elif row.status.ended:
            yield self._ended(failure_of(row))
        elif row.status is Status.QUEUED and self._started:
            yield self._ended(_INTERRUPTED)

    def _succeeded(self, row: TaskRow, *, complete: bool) -> Iterator[Event]:
        if not complete:
            yield from self._drain()
            if self._over:
                return
        if self._started and not complete:
            yield self._ended(_GAP)
            return
        if not self._started:
            yield from (Chunk(chunk) for chunk in chunks_of(orjson.loads(row.result or "{}")))
        yield self._ended(Done())

    def _drain(self) -> Iterator[Event]:
        """Chunks still under way when the end was signalled."""
        while self._subscription is not None and not self._over:
            piece = self._piece(_DRAIN_SECONDS if self._started else 0.05)
            if piece is None:
                return
            yield from self._received(piece)


def failure_of(row: TaskRow) -> Broken:
    """The error for a task that ended without a result."""
    status = failure_status(row.error_code or str(row.status))
    problem = openai_error(row)
    message = row.error_message or f"the task was {row.status} before it had a result"
    code = (problem.code if problem else row.error_code) or str(row.status)
    return Broken(status, row.error_type or "server_error", code, message, problem.param if problem else None)
