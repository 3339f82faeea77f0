"""The only way to run something repeatedly in the background: a loop survives whatever its body raises.

loop = BackgroundLoop("audit", flush, every=0.5)
loop.start()
...
loop.close()
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import structlog

from app.platform.ports import Clock

log = structlog.get_logger("penstock.loops")

FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 30.0  # seconds after a failure, doubled for each further one
END = object()  # returned by a body: that was the last time

Count = Callable[[str], object]
_counts: list[Count] = []  # one registry per process: the last one configured


def count_failures(count: Count) -> None:
    """From here on, call `count` with a loop's name for each time that its body failed in this process."""
    _counts[:] = [count]


class BackgroundLoop:
    """Calls `body` every so many seconds in a daemon thread of its own, until it is stopped or returns END.

    What the body raises is logged and counted, and the next call waits longer. Errors in `expected`, such as a
    database out of reach, are a warning and are not counted.
    """

    def __init__(
        self,
        name: str,
        body: Callable[[], object],
        *,
        every: float | None = 0.0,
        at_once: bool = True,
        expected: tuple[type[BaseException], ...] = (),
        backoff: tuple[float, float] = (FIRST_BACKOFF, LONGEST_BACKOFF),
        wake: Callable[[], object] = lambda: None,
    ) -> None:
        """`every`: seconds between two calls; None: only when woken. `at_once`: whether the first call waits for that.

        `backoff`: first and longest pause after a failure. `wake`: ends a wait inside the body, when it is to stop.
        """
        self.name = name
        self._body, self._every, self._at_once = body, every, at_once
        self._expected, self._backoff, self._wake = expected, backoff, wake
        self._stopped = threading.Event()
        self._rung = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._failures = 0  # in a row

    def start(self) -> None:
        """Begin, unless it has, or was stopped."""
        with self._starting:
            if self._thread is None and not self._stopped.is_set():
                self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
                self._thread.start()

    def wake(self) -> None:
        """Call the body now. A pause after a failure is not cut short."""
        self._rung.set()

    def wait(self, seconds: float) -> bool:
        """For a body: wait so long, or until the loop is to stop. Returns whether it is."""
        return self._stopped.wait(seconds)

    @property
    def stopping(self) -> bool:
        """Whether it is to stop."""
        return self._stopped.is_set()

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def is_current(self) -> bool:
        """Whether the caller is this loop's body."""
        return threading.current_thread() is self._thread

    def stop(self) -> None:
        """End after the present call; does not wait for that."""
        self._stopped.set()
        self._rung.set()
        self._wake()

    def join(self, seconds: float | None = 5.0) -> bool:
        """Wait for its end. Returns whether it has ended."""
        if self._thread is not None and not self.is_current:
            self._thread.join(seconds)
        return not self.is_alive

    def close(self, seconds: float | None = 5.0) -> bool:
        """Stop, and wait so long for the present call's end. Returns whether it has ended."""
        self.stop()
        return self.join(seconds)

    def _run(self) -> None:
        if not self._at_once:
            self._pause()
        while not self._stopped.is_set():
            try:
                if self._body() is END:
                    return
            except BaseException as error:  # noqa: BLE001 - who relies on this loop must not lose it
                self._failed(error)
            else:
                self._recovered()
                self._pause()

    def _pause(self) -> None:
        if self._every == 0:
            return
        self._rung.wait(self._every)
        if not self._stopped.is_set():
            self._rung.clear()

    def _failed(self, error: BaseException) -> None:
        """Log it, at first each time and then less often; wait with exponential backoff."""
        self._failures += 1
        seldom = self._failures & (self._failures - 1) == 0  # 1, 2, 4, 8 ...
        if isinstance(error, self._expected):
            if seldom:
                log.warning("a loop waits", loop=self.name, reason=str(error), times=self._failures)
        else:
            for count in _counts:
                count(self.name)
            if seldom:
                log.error("a loop failed, and goes on", loop=self.name, times=self._failures, exc_info=error)
        first, longest = self._backoff
        self._stopped.wait(min(longest, first * 2.0 ** min(self._failures - 1, 30)))

    def _recovered(self) -> None:
        if self._failures:
            log.info("a loop works again", loop=self.name, failures=self._failures)
        self._failures = 0


class PipelinedWriter:
    """Not for several threads. Whoever is done, or gives up, settles."""

    def __init__(self) -> None:
        self._pending: Future[None] | None = None

    def do(self, work: Callable[[], object]) -> None:
        """Begin a piece of work once the one before has ended. Raises what that one raised: nothing begins then."""
        self.settle()
        self._pending = pending = Future[None]()
        threading.Thread(target=_run, args=(work, pending), name="one-behind", daemon=True).start()

    def settle(self) -> None:
        """Wait until nothing is under way. Raises what the last piece raised, once."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def _run(work: Callable[[], object], pending: Future[None]) -> None:
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
        pending.set_exception(error)
    else:
        pending.set_result(None)


_REST = 20  # how many times as long as a read took nothing is read again

T = TypeVar("T")


class RateLimitedRead(Generic[T]):
    """A value that is read again after `least` seconds, or twenty times what reading it took."""

    def __init__(self, value: T, least: float, clock: Clock) -> None:
        self.value = value
        self._least = least
        self._clock = clock
        self._due = -1.0

    def get(self, read: Callable[[], T]) -> T:
        """The value; read now if it is due. Raises what `read` raises."""
        began = self._clock.monotonic()
        if began >= self._due:
            self.value = read()
            ended = self._clock.monotonic()
            self._due = ended + max(self._least, _REST * (ended - began))
        return self.value


MORE = object()  # returned by a job's run: work is left, so it is due again at once
EACH_ROUND = 0.0  # `every` of a job that is due in each round


@dataclass(slots=True)
class Cooldown:
    """Lets something through at most once every so many seconds; the first time at once. Monotonic seconds."""

    seconds: float
    _due_at: float = float("-inf")

    def ready(self, at: float) -> bool:
        """Whether its time has come; if so, it is restarted."""
        if at < self._due_at:
            return False
        self._due_at = at + self.seconds
        return True

    def reset(self) -> None:
        """Be ready again at once."""
        self._due_at = float("-inf")


@dataclass(slots=True)
class PeriodicJob:
    """`run` every so many seconds. Each run is bounded; it returns MORE when it left work."""

    name: str
    every: float  # seconds
    run: Callable[[], object]
    _cooldown: Cooldown = field(init=False)

    def __post_init__(self) -> None:
        self._cooldown = Cooldown(self.every)

    def tick(self, at: float) -> bool:
        """Run it if it is due at `at` (monotonic). Returns whether it ran. Raises what `run` raises."""
        if not self._cooldown.ready(at):
            return False
        if self.run() is MORE:
            self._cooldown.reset()
        return True


def run_due(jobs: Sequence[PeriodicJob], at: float, report: Callable[[str, Exception], object]) -> None:
    """Run each job that is due; `report` gets the name and error of one that fails, and the others still run."""
    for job in jobs:
        try:
            job.tick(at)
        except Exception as error:  # noqa: BLE001 - reported, and tried again when it is next due
            report(job.name, error)
