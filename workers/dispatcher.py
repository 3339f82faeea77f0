"""The dispatcher process: several may run, one leads.

The release loop (this thread) waits for Redis alone: a database that does not answer costs nobody the lead. Beside it
run loops that feed, heal, look at pauses and shares, test keys, and write down what is to be fed again. Each waits for
its doorbell or its next due instant. A loop that meets a lost Redis or database waits and goes on; the term in every
script keeps a leader that was overtaken from doing harm.
"""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue

import structlog

from app.composition.container import Container, from_environment
from app.composition.dispatcher import LeaderProcess
from app.dispatching.leadership import begin_epoch
from app.dispatching.periodic import run_due
from app.pacing.store.pacing_store import EpochBroken, NotLeading
from app.platform.background_loop import END, BackgroundLoop
from app.platform.domain.errors import DatabaseUnreachable, RedisUnreachable

log = structlog.get_logger("penstock.dispatcher")

POLL = 0.25  # seconds between a candidate's looks at the leader's beat
JOIN = 5.0  # seconds for all loops of a leader that makes room; whoever takes longer ends when it can
LONGEST = 2.0  # seconds between a loop's tries while something cannot be reached
AGAIN = 0.5  # seconds after something could not be reached
HEAL_EVERY = 1.0
TAKE_BACK_EVERY = 0.25
LOOK_EVERY = 0.4  # a pause is obeyed within a second
TEST_EVERY = 1.0
SHARES_EVERY = 5.0
REFEED_EVERY = 0.25


class DispatcherSupervisor:
    """From one configuration to the next, until SIGTERM."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.over = threading.Event()  # of the leader at work
        self._next: SimpleQueue[LeaderProcess] = SimpleQueue()

    def end(self, *_: object) -> None:
        """Stop for good. May be called from a signal handler."""
        self.stop.set()
        self.over.set()

    def hand_over(self, leader: LeaderProcess) -> None:
        """Go on with another one."""
        self._next.put(leader)
        self.over.set()

    def heir(self, leader: LeaderProcess) -> LeaderProcess:
        """The newest one; the same where there is none."""
        self.over.clear()
        if self.stop.is_set():
            self.over.set()
        while not self._next.empty():
            leader = self._next.get()
        return leader


def main(ready: Callable[[], object]) -> None:
    """Be a dispatcher until SIGTERM; `ready` is called when it stands for leader.

    A reload is a change of leader within the process: what was learned is kept, and what was released to a key that
    is gone returns by itself, as nobody redeems it.
    """
    life = DispatcherSupervisor()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, life.end)
    parts = from_environment()
    parts.show_meters()
    leader = LeaderProcess(parts)
    follow = parts.follow(lambda settings: life.hand_over(_leader(parts.renewed(settings))))
    follow.start()
    ready()
    live(life, leader)
    follow.close()


def live(life: DispatcherSupervisor, leader: LeaderProcess) -> None:
    """One leader after the other, until the end."""
    while not life.stop.is_set():
        leader = life.heir(leader)
        run(leader, life.over)


def _leader(parts: Container) -> LeaderProcess:
    """With whatever may find the configuration wrong. Raises ConfigError."""
    parts.sending_alerts  # noqa: B018
    return LeaderProcess(parts)


def run(leader: LeaderProcess, stop: threading.Event) -> None:
    """Stand for leader, lead, and go on until `stop`; then make room for a successor, and leave no thread behind."""
    leading = threading.Event()
    loops = _loops(leader, leading)
    watch = leader.parts.keep_alerts(may=leading.is_set)
    for loop in loops:
        loop.start()
    watch.start()
    while not stop.is_set():
        try:
            _lead(leader, leading, stop)
        except NotLeading:
            log.warning("another dispatcher leads now")
        except EpochBroken:
            stop.wait(AGAIN)  # under the next term another one is begun
        except (RedisUnreachable, DatabaseUnreachable) as error:
            log.warning("waiting", reason=str(error))
            stop.wait(AGAIN)
        except Exception as error:  # noqa: BLE001 - whatever a turn met, the next one may do without
            _failed(leader, stop, error)
        finally:
            leading.clear()
    for loop in loops:
        loop.stop()
    _resign(leader)

    def close() -> object:
        watch.close()
        leader.close()
        return END

    closing = BackgroundLoop("closing", close)
    closing.start()
    _join([*loops, closing])


def _join(loops: Sequence[BackgroundLoop]) -> None:
    """Wait for all of them together: a successor stands still meanwhile."""
    until = time.monotonic() + JOIN
    for loop in loops:
        loop.join(max(0.0, until - time.monotonic()))


def _failed(leader: LeaderProcess, stop: threading.Event, error: Exception) -> None:
    log.error("the leader met an error and goes on", exc_info=error)
    leader.parts.meters.loop_failed("leader")
    stop.wait(AGAIN)


def _lead(leader: LeaderProcess, leading: threading.Event, stop: threading.Event) -> None:
    term = uuid.uuid4().hex
    while not leader.candidate.try_lead(term):
        if stop.wait(POLL):
            return
    log.info("leading", term=term)
    leader.reservoir.term = term
    leader.configure()
    while not stop.is_set():
        try:
            leading.set()
            _release(leader, stop)
        except EpochBroken:
            leading.clear()
            _begin_epoch(leader, stop)
        except (RedisUnreachable, DatabaseUnreachable) as error:
            log.warning("waiting", reason=str(error))
            stop.wait(AGAIN)
        except NotLeading:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a turn met, the next one may do without
            _failed(leader, stop, error)


def _release(leader: LeaderProcess, stop: threading.Event) -> None:
    wait = 0.0
    while not stop.is_set():
        turn = leader.dispatcher.turn(wait)
        leader.parts.meters.turned(turn.seconds)
        leader.refeeding.remember(turn.refeed)
        wait = turn.next_in


def _begin_epoch(leader: LeaderProcess, stop: threading.Event) -> None:
    log.warning("Redis holds another epoch: feeding again from the database")
    begin_epoch(
        leader.gate,
        leader.database,
        leader.dispatcher.topology,
        leader.clock,
        epoch=uuid.uuid4().hex,
        upstreams=leader.upstream_of_key,
        configure=leader.configure,
        pause=stop.wait,
    )


def _loops(leader: LeaderProcess, leading: threading.Event) -> list[BackgroundLoop]:
    """What a leader does beside its turns."""
    heal_due = 0.0

    def feed() -> None:
        leader.gate.wait_for_wake("penstock:wake:feeder", leader.feed())

    def round_() -> None:
        nonlocal heal_due
        leader.gate.take_back(leader.stale)
        if leader.clock.monotonic() >= heal_due:
            heal_due = leader.clock.monotonic() + HEAL_EVERY
            run_due(leader.jobs, leader.clock.monotonic(), partial(_report, leader))

    def loop(name: str, once: Callable[[], object], every: float) -> BackgroundLoop:
        def body() -> None:
            if leading.wait(POLL):
                _while_leading(once)

        away = (RedisUnreachable, DatabaseUnreachable)
        return BackgroundLoop(name, body, every=every, expected=away, backoff=(AGAIN, LONGEST))

    return [
        loop("feeder", feed, 0.0),
        loop("healer", round_, TAKE_BACK_EVERY),
        loop("watcher", leader.watch.look, LOOK_EVERY),
        loop("tester", leader.watch.test, TEST_EVERY),
        loop("shares", leader.shares.look, SHARES_EVERY),
        loop("refeeder", leader.refeeding.flush, REFEED_EVERY),
    ]


def _while_leading(once: Callable[[], object]) -> None:
    try:
        once()
    except (NotLeading, EpochBroken):
        time.sleep(POLL)  # the leader's own loop sees to that


def _report(leader: LeaderProcess, job: str, error: Exception) -> None:
    """Log a job's failure, and count it unless Redis or the database is out of reach."""
    if isinstance(error, (NotLeading, EpochBroken)):
        return
    log.warning("a periodic job failed", job=job, error=repr(error))
    if not isinstance(error, (RedisUnreachable, DatabaseUnreachable)):
        leader.parts.meters.loop_failed(job)


def _resign(leader: LeaderProcess) -> None:
    try:
        if leader.gate.term:
            leader.refeeding.flush()
            leader.learned.keep()
    except DatabaseUnreachable:
        log.warning("what was learned in the last seconds is lost")
    try:
        leader.gate.resign()
    except (NotLeading, RedisUnreachable):
        pass
