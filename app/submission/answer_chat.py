"""Hold a chat call until its task has ended, with nothing held beside the connection itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from app.platform.ports import Clock
from app.submission.begin_chat import LOOK_EVERY, BeginChat, Chat, ChatCall
from app.tasks.domain.task import new_id
from app.tasks.read_tasks import ReadTasks
from app.tasks.store.tasks import TaskRow
from app.tasks.wait_for_task import Waiters


class Waited(Enum):
    """Why a wait is over."""

    ENDED = "ended"  # the task has
    LATE = "late"  # the client will not listen much longer
    GONE = "gone"  # it has hung up
    CLOSING = "closing"  # this process is about to end


@dataclass(frozen=True, slots=True)
class ChatOutcome:
    """A call after its wait: its task as it stands. Whoever has it must finish the chat."""

    chat: Chat
    row: TaskRow
    why: Waited


class AnswerChat:
    """The use case of a call that is answered in one piece."""

    def __init__(self, begin: BeginChat, reader: ReadTasks, waiters: Waiters, clock: Clock) -> None:
        self._begin = begin
        self._reader = reader
        self._waiters = waiters
        self._clock = clock

    def answer(self, call: ChatCall) -> ChatOutcome:
        """Take a call in and wait for the end of its task.

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
            why = self._over(chat, left)
            if why is not None:
                return ChatOutcome(chat, row, why)
            if chat.bell.wait(min(left, LOOK_EVERY)):
                chat.bell.clear()
                row = self._reader.task(chat.call.client_id, chat.task_id)
        return ChatOutcome(chat, row, Waited.ENDED)

    def _over(self, chat: Chat, left: float) -> Waited | None:
        if chat.call.gone():
            return Waited.GONE
        if self._waiters.closed:
            return Waited.CLOSING
        return Waited.LATE if left <= 0 else None


def _seconds(call: ChatCall) -> float:
    """How long to wait: as long as the client listens, or as it prefers."""
    wished = call.preference.wait
    if wished is None:
        return 0.0 if call.preference.respond_async else call.patience.seconds
    return min(wished, call.patience.seconds)
