"""What the use cases need from outside. Adapters fit these; tests bring small fakes with state."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from app.db.tasks import TaskRow
from app.domain.answer import Answer as KeptAnswer
from app.domain.attempt import Ending, Message, Permit, Refusal, Refused, Settlement
from app.domain.callback import Answer, Parcel
from app.domain.errors import RedisUnreachable
from app.domain.stream_piece import Piece
from app.domain.task import NOT_DUE
from app.domain.why import starts_in


class Clock(Protocol):
    """Time, as the process sees it."""

    def now(self) -> float:
        """Unix seconds."""

    def monotonic(self) -> float:
        """Seconds since some start; never steps."""


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker process tells the dispatcher each second."""

    worker: str
    keys: tuple[str, ...]  # whose queues it consumes
    slots: int  # calls it may hold by now, its pool's size at most; 0 while it drains or has no database
    held: int  # calls in its hands


class Reservoir(Protocol):
    """Backlog queues, as the API and the feeder see them. Never raises for an unreachable Redis: it refuses."""

    def publish(self, messages: Sequence[Message], *, feeding: bool = False) -> Mapping[str, Refusal]:
        """Put messages into their backlog queues in order; gives back the refused ids with the reason.

        A task that is already in place or holds a permit counts as accepted. `feeding` is the feeder's right to
        publish while rows wait in the database (others are refused with `behind`, so that order is kept).
        """

    def forget(self, task_ids: Iterable[str]) -> None:
        """Delete places: what was cancelled, expired or paused will be dropped at release, free of charge."""

    def announce(self, task_ids: Iterable[str]) -> None:
        """Tell waiters in all processes that these tasks (or batches) changed."""

    def ring(self) -> None:
        """Wake the dispatcher: rows wait in the database. Lost without harm; the feeder also looks by itself."""


class Permits(Protocol):
    """The gate, as a worker sees it."""

    def redeem(self, task_id: str, worker: str) -> Permit | Refused:
        """Exchange a released task's permit for the right to send within 2 s."""

    def may_send(self, permit: Permit, send_by: float) -> bool:
        """Just before the send: whether it may come now. Waits for that, at the latest until `send_by` (monotonic)."""

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """End permits and tell waiters of ended tasks. Raises Unreachable; the caller keeps and repeats."""

    def report(self, report: WorkerReport) -> None:
        """Tell the dispatcher what this worker consumes and can take."""


class Meter(Protocol):
    """Counts what happens, where it happens, once it is committed. Never raises, and costs microseconds."""

    def submitted(self, way: str, client_id: str, model: str, count: int = 1) -> None:
        """Tasks were taken in: `single`, `chat`, `batch` or `file`. `model` empty: several."""

    def looked_up(self, *, found: bool) -> None:
        """A task asked the cache for its answer."""

    def called(self, ending: Ending, overhead_seconds: float) -> None:
        """An upstream call was recorded; `overhead_seconds` passed since its release beside the call itself."""

    def lost(self, model: str, key: str) -> None:
        """A call vanished with its worker."""

    def ended(self, counts: Mapping[str, int]) -> None:
        """Tasks came to their ends: how many, by status."""

    def delivered(self, result: str, seconds: float) -> None:
        """A callback was tried: it is `delivered`, `pending` (to be tried again) or `failed`."""

    def turned(self, seconds: float) -> None:
        """The dispatcher took a turn."""


class NoMeter:
    """Counts nothing."""

    def submitted(self, way: str, client_id: str, model: str, count: int = 1) -> None:
        """Nothing."""

    def looked_up(self, *, found: bool) -> None:
        """Nothing."""

    def called(self, ending: Ending, overhead_seconds: float) -> None:
        """Nothing."""

    def lost(self, model: str, key: str) -> None:
        """Nothing."""

    def ended(self, counts: Mapping[str, int]) -> None:
        """Nothing."""

    def delivered(self, result: str, seconds: float) -> None:
        """Nothing."""

    def turned(self, seconds: float) -> None:
        """Nothing."""


class CallbackBell(Protocol):
    """Tells callback workers what is due."""

    def room(self) -> int:
        """How many more messages their queue may hold; 0 also while Redis does not answer. Never raises."""

    def ring(self, callback_ids: Sequence[str]) -> Sequence[str]:
        """Publish a message for each; gives back those it could not. The feeder finds these. Never raises."""


class NoBell:
    """Rings nobody: the leader's feeder finds what is due within a second."""

    def room(self) -> int:
        """None."""
        return 0

    def ring(self, callback_ids: Sequence[str]) -> Sequence[str]:
        """Publishes nothing."""
        return callback_ids


class Courier(Protocol):
    """Carries callbacks to their receivers."""

    def send(self, parcel: Parcel) -> Answer:
        """Send it and give back what came of it. Never raises for what a receiver does."""

    def close(self) -> None:
        """Close what is kept open between callbacks."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How a client stands with its requests per minute."""

    allowed: bool
    rpm: int
    left: int
    retry_after: float  # seconds until the next one would be let pass
    full_in: float  # seconds until all of them are there again


class RequestRates(Protocol):
    """Counts clients' requests, over all API processes."""

    def take(self, client_id: str, rpm: int) -> Rate | None:
        """Count one request. None: nobody knows, and it is let pass. Never raises, never takes long."""


class NoRates:
    """Counts nothing."""

    def take(self, client_id: str, rpm: int) -> Rate | None:  # noqa: ARG002
        """Lets everything pass."""
        return None


class Changes(Protocol):
    """News of ended tasks and batches from all processes, as `announce` and `settle` publish them."""

    def listen(self, heard: Callable[[str], None], stop: threading.Event) -> None:
        """Call `heard` with each id until `stop` is set; reconnects by itself. Blocks; run it in a thread."""


class StreamWriter(Protocol):
    """Where a worker passes streamed answers on, to whoever waits for them."""

    def send(self, task_id: str, piece: Piece) -> None:
        """Pass a piece on. What cannot be is lost, and found missing by its number. Never raises."""


class NoStreams:
    """Nobody waits."""

    def send(self, task_id: str, piece: Piece) -> None:
        """Passes nothing on."""


class Subscription(Protocol):
    """One listener at the stream of one task."""

    def next(self, seconds: float) -> Piece | None:
        """The next piece; None when none came within so many seconds. Raises RedisUnreachable."""


class StreamReader(Protocol):
    """Where streamed answers come from."""

    def listen(self, task_id: str) -> AbstractContextManager[Subscription]:
        """Listen, from now on, to what is passed on of a task. Raises RedisUnreachable."""


class NoStreamReader:
    """Nothing is passed on: answers come whole."""

    def listen(self, task_id: str) -> AbstractContextManager[Subscription]:
        """Raises RedisUnreachable."""
        raise RedisUnreachable(f"nobody passes on what comes of {task_id}")


class AnswerCache(Protocol):
    """Answers kept to be given again. Whatever keeps it from answering counts as nothing kept: it never raises."""

    def look(self, keys: Collection[str]) -> Mapping[str, KeptAnswer]:
        """The answers that are kept, by key."""

    def keep(self, key: str, answer: KeptAnswer, seconds: float) -> None:
        """Keep an answer for so long, in the place of an older one."""

    def stamp(self) -> str | None:
        """Changes whenever an answer takes an older one's place, in whatever process. None: it cannot be told now."""

    def close(self) -> None:
        """Let go of what it holds open."""


class NoAnswers:
    """Keeps nothing."""

    def look(self, keys: Collection[str]) -> Mapping[str, KeptAnswer]:  # noqa: ARG002
        """Nothing."""
        return {}

    def keep(self, key: str, answer: KeptAnswer, seconds: float) -> None:
        """Keeps nothing."""

    def stamp(self) -> str | None:
        """Nothing is ever replaced."""
        return ""

    def close(self) -> None:
        """Holds nothing."""


@dataclass(frozen=True, slots=True)
class Queued:
    """A waiting task, as far as its explanation needs it."""

    task_id: str
    sequence: int
    model: str
    client_id: str
    queue: str
    step: int
    hold: int
    available_at: float
    batch_id: str | None
    due: float = NOT_DUE
    attempts: int = 0  # calls made for it so far
    batch_paused: bool = False
    code: str | None = None  # why it was put off

    @classmethod
    def of(cls, row: TaskRow) -> Queued:
        """Out of a row as it was read."""
        return cls(
            task_id=row.id,
            code=row.error_code,
            sequence=row.seq,
            model=row.model,
            client_id=row.client_id,
            queue=row.queue,
            step=row.step,
            hold=row.hold,
            available_at=row.available_at,
            batch_id=row.batch_id,
            due=row.due,
            attempts=row.attempts,
            batch_paused=row.batch_paused_at is not None,
        )


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a task waits, and for how long about. What is not known is None."""

    position: int | None = None  # among what its client has waiting for its model at its priority, from 1
    estimated_start_at: float | None = None  # Unix seconds
    waiting_for: str | None = None


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a task that comes now meets in its line."""

    ahead: int  # tasks before it
    rate: float | None  # releases a second; None: nothing is known of it
    opens_in: float  # seconds until its model is open; infinite where nobody knows

    def starts_in(self, more: int = 0) -> float | None:
        """Seconds until about its start, with so many more before it; None where nobody knows."""
        return starts_in(self.ahead + more, self.rate, self.opens_in)


class Explain(Protocol):
    """Says why a task waits."""

    def foresee(self, model: str, queue: str, step: int, due: float) -> Foreseen | None:
        """What a task that came now would meet; None where nobody knows. Never raises and never takes long."""

    def explain(self, task: Queued) -> Explanation:
        """Never raises and never takes long: what is not known now stays None."""


class NoExplanation:
    """Knows nothing."""

    def foresee(self, model: str, queue: str, step: int, due: float) -> Foreseen | None:  # noqa: ARG002
        """Nothing."""
        return None

    def explain(self, task: Queued) -> Explanation:  # noqa: ARG002
        """An empty explanation."""
        return Explanation()


Value = str | int | float | bool | None


class Span(Protocol):
    """Something that is being done to a task, in a trace. Nothing of a prompt or a secret goes into one."""

    @property
    def traceparent(self) -> str | None:
        """Where what follows from it hangs on, as W3C Trace Context writes it; None: nobody traces."""

    def tell(self, **attributes: Value) -> None:
        """Add what is known by now; None is left out."""


class Tracer(Protocol):
    """Who keeps traces."""

    @property
    def enabled(self) -> bool:
        """Whether anybody does."""

    def span(self, name: str, parent: str | None = None, **attributes: Value) -> AbstractContextManager[Span]:
        """While it lasts; under `parent`, else under what this thread is doing. Never raises of its own."""

    def past(self, name: str, parent: str, began_at: float, ended_at: float, **attributes: Value) -> None:
        """What was done between two instants, in Unix seconds."""

    def follow(self, parent: str) -> Callable[[], None]:
        """Let what this thread does hang on `parent`, until what is given back is called."""

    def close(self) -> None:
        """Send what is left."""


class _NoSpan:
    traceparent = None

    def tell(self, **attributes: Value) -> None:
        """Nobody listens."""


_NOTHING_AROUND: AbstractContextManager[Span] = nullcontext(_NoSpan())  # one serves all: it keeps nothing


class NoTracer:
    """Keeps nothing."""

    enabled = False

    def span(self, name: str, parent: str | None = None, **attributes: Value) -> AbstractContextManager[Span]:  # noqa: ARG002
        """Nothing around it."""
        return _NOTHING_AROUND

    def past(self, name: str, parent: str, began_at: float, ended_at: float, **attributes: Value) -> None:
        """Keeps nothing."""

    def follow(self, parent: str) -> Callable[[], None]:  # noqa: ARG002
        """Follows nothing."""
        return lambda: None

    def close(self) -> None:
        """Nothing is left."""
