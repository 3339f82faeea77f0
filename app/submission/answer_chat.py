"""A chat call from its arrival to its answer. A repeat takes over the task of its earlier try; any other makes one.

While it waits, it holds nothing but its connection and its request thread. Waiting belongs to that thread; `wakeup`
is set by the thread that hears of ended tasks (`Waiters`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from enum import Enum

from app.platform.domain.errors import OverLimit
from app.platform.ports import Clock
from app.submission.domain.request import IdempotencyKey, Patience, Preference, TaskRequest
from app.submission.hold_connections import HoldConnections, WaitingCall
from app.submission.submit_task import SubmitTask
from app.tasks.domain.rows import TaskRow
from app.tasks.domain.task import Status, new_id
from app.tasks.read_tasks import ReadTasks
from app.tasks.wait import Waiters

LOOK_EVERY = 1.0  # seconds between checks that the client is still connected


KEYLESS_SECONDS = 2.0  # after which a waiting call that no key can serve is refused; a queued task waits


class TooManyWaiting(OverLimit):
    """This process can hold no more connections of any client; another one may, or this one soon."""

    status = 503
    type = "server_error"


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A chat call. `fingerprint` identifies API key and body; `gone` returns whether the client has disconnected."""

    client_id: str
    request: TaskRequest
    fingerprint: str
    patience: Patience
    preference: Preference = field(default_factory=Preference)
    repeat: IdempotencyKey | None = None  # by an Idempotency-Key
    gone: Callable[[], bool] = lambda: False
    join: bool = False  # an equal call that waits or runs is joined

    @property
    def given_up_when_gone(self) -> bool:
        """Whether its task is for this connection alone. With an Idempotency-Key, or after a 202, the client returns
        for it."""
        return self.repeat is None and not self.preference.respond_async


@dataclass(slots=True)
class Chat:
    """A chat call whose task is stored. The thread that holds it must `finish` it."""

    call: ChatCall
    task_id: str
    wakeup: threading.Event
    made: bool  # a new task; else an existing one
    waiting: WaitingCall | None
    is_keyless: Callable[[str], bool]
    begun_at: float  # on the monotonic clock
    _stack: ExitStack = field(repr=False)
    _connections: HoldConnections = field(repr=False)

    def has_no_key(self, model: str, now: float) -> bool:
        """Whether it has waited long enough for a model of which every key is refused or unpaid."""
        waits_for_it_alone = self.call.given_up_when_gone
        return waits_for_it_alone and now - self.begun_at >= KEYLESS_SECONDS and self.is_keyless(model)

    def finish(self, *, answered: bool, repeats: bool = True) -> None:
        """Record how it ended: `answered` once the answer is sent; `repeats` False: a repeat cannot help any more."""
        self._stack.close()
        waiting, self.waiting = self.waiting, None
        if waiting is None:
            return
        if answered:
            self._connections.answered(waiting)
        else:
            self._connections.let_go(waiting, repeats=repeats)


class BeginChat:
    """Accepts chat calls. Used by all request threads."""

    def __init__(
        self,
        submit: SubmitTask,
        waiters: Waiters,
        watch: Callable[[], None],
        connections: HoldConnections,
        clock: Clock,
        is_keyless: Callable[[str], bool] = lambda _model: False,
    ) -> None:
        """`watch` starts whatever signals the ends of tasks; it is called before each wait and must be quick.

        `is_keyless`: whether every key of a model is refused or unpaid.
        """
        self._submit = submit
        self._waiters = waiters
        self._watch = watch
        self._connections = connections
        self._clock = clock
        self._is_keyless = is_keyless

    def begin(self, call: ChatCall, task_id: str) -> Chat:
        """Accept a call; a new task gets the id `task_id`.

        Raises Invalid, TooManyWaiting (nothing was stored then), DatabaseUnreachable.
        """
        self._watch()
        if not call.join or not call.given_up_when_gone:
            return self._begin(call, task_id)
        with self._connections.turn(call.fingerprint):
            return self._begin(call, task_id)

    def _begin(self, call: ChatCall, task_id: str) -> Chat:
        found = self._found(call)
        stack = ExitStack()
        chat = Chat(
            call,
            found.task_id if found else task_id,
            threading.Event(),
            False,
            found,
            self._is_keyless,
            self._clock.monotonic(),
            stack,
            self._connections,
        )
        try:
            chat.wakeup = self._wakeup(stack, chat.task_id)
            if found is None:
                self._make(chat, stack)
        except BaseException:
            chat.finish(answered=False)
            raise
        return chat

    def _found(self, call: ChatCall) -> WaitingCall | None:
        if not call.given_up_when_gone:
            return None
        if call.join:
            return self._connections.share(call.client_id, call.fingerprint)
        if call.patience.tries:
            return self._connections.find(call.client_id, call.fingerprint)
        if call.patience.repeats:  # it says that it is no repeat
            return None
        return self._connections.find_freed(call.client_id, call.fingerprint)

    def _make(self, chat: Chat, stack: ExitStack) -> None:
        call = chat.call
        waiting = (
            self._connections.new_call(chat.task_id, call.client_id, call.fingerprint)
            if call.given_up_when_gone
            else None
        )
        submitted = self._submit.submit(
            call.client_id, call.request, call.repeat, task_id=chat.task_id, call=waiting
        )
        chat.waiting, chat.made = waiting and self._connections.hold(waiting), submitted.row is not None
        if submitted.task_id != chat.task_id:
            chat.task_id = submitted.task_id
            chat.wakeup = self._wakeup(stack, submitted.task_id)

    def _wakeup(self, stack: ExitStack, task_id: str) -> threading.Event:
        entered: AbstractContextManager[threading.Event | None] = self._waiters.enter(task_id)
        wakeup = stack.enter_context(entered)
        if wakeup is None:
            raise TooManyWaiting(
                "this server holds its maximum of waiting calls ([api] waiters); send it again after Retry-After, or "
                "submit to /v1/tasks, which does not wait",
                code="too_many_waiting",
                retry_after=self._waiters.next_place(),
            )
        return wakeup


class Waited(Enum):
    """Why a wait is over."""

    ENDED = "ended"  # the task has
    LATE = "late"  # the client will soon time out
    GONE = "gone"  # the client has disconnected
    CLOSING = "closing"  # this process is shutting down
    KEYLESS = "keyless"  # every key of its model is refused or unpaid


@dataclass(frozen=True, slots=True)
class ChatOutcome:
    """A call after its wait, with its task at that moment. The thread that holds it must finish the chat."""

    chat: Chat
    row: TaskRow
    why: Waited


class AnswerChat:
    """Answers a call in one piece."""

    def __init__(self, begin: BeginChat, reader: ReadTasks, waiters: Waiters, clock: Clock) -> None:
        self._begin = begin
        self._reader = reader
        self._waiters = waiters
        self._clock = clock

    def answer(self, call: ChatCall) -> ChatOutcome:
        """Accept a call and wait for the end of its task.

        Nothing is sent meanwhile. Raises Invalid, TooManyWaiting, DatabaseUnreachable.
        """
        chat = self._begin.begin(call, new_id("task", self._clock.now()))
        try:
            return self._wait(chat, _seconds(call))
        except BaseException:
            chat.finish(answered=False)
            raise

    def _wait(self, chat: Chat, seconds: float) -> ChatOutcome:
        deadline = self._clock.monotonic() + seconds
        row = self._reader.task(chat.call.client_id, chat.task_id)
        while not row.status.ended:
            left = deadline - self._clock.monotonic()
            why = self._over(chat, row.model, left)
            if why is Waited.KEYLESS:
                row = self._reader.task(chat.call.client_id, chat.task_id)
                why = why if row.status is Status.QUEUED else None  # a call may be the test of a key
            if row.status.ended:
                break
            if why is not None:
                return ChatOutcome(chat, row, why)
            if chat.wakeup.wait(min(left, LOOK_EVERY)):
                chat.wakeup.clear()
                row = self._reader.task(chat.call.client_id, chat.task_id)
        return ChatOutcome(chat, row, Waited.ENDED)

    def _over(self, chat: Chat, model: str, left: float) -> Waited | None:
        if chat.call.gone():
            return Waited.GONE
        if self._waiters.closed:
            return Waited.CLOSING
        if left <= 0:
            return Waited.LATE
        return Waited.KEYLESS if chat.has_no_key(model, self._clock.monotonic()) else None


def _seconds(call: ChatCall) -> float:
    """How long to wait: as long as the client listens, or as it prefers."""
    wished = call.preference.wait
    if wished is None:
        return 0.0 if call.preference.respond_async else call.patience.seconds
    return min(wished, call.patience.seconds)
