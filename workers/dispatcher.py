"""The dispatcher process: several may run, one leads.

The release loop (this thread) waits for Redis alone: a database that does not answer costs no leader its lead. Other
threads feed, reconcile, read pauses and shares, test keys, and queue tasks again. Each waits for its wake-up key or its
next due instant. A loop that cannot reach Redis or the database waits and goes on. Every script checks the term, so a
leader that was replaced does no harm.
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
from app.dispatching.leadership import begin_generation
from app.pacing.store.pacing_store import GenerationLost, NotLeading
from app.platform.background_loop import END, BackgroundLoop, run_due
from app.platform.domain.errors import DatabaseUnreachable, RedisUnreachable

log = structlog.get_logger("penstock.dispatcher")

POLL = 0.25  # seconds between a candidate's checks of the leader's heartbeat
JOIN = 5.0  # seconds to wait for all loops of a leader that is replaced; a slower one ends when it can
LONGEST = 2.0  # seconds between retries of a loop while something cannot be reached
AGAIN = 0.5  # seconds after something could not be reached
RECONCILE_EVERY = 1.0
RECLAIM_EVERY = 0.25
LOOK_EVERY = 0.4  # a pause takes effect within a second
TEST_EVERY = 1.0
SHARES_EVERY = 5.0
REQUEUE_EVERY = 0.25


class DispatcherSupervisor:
    """Passes from one configuration's leader to the next, until SIGTERM. Safe to use from several threads."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.over = threading.Event()  # ends the present leader
        self._next: SimpleQueue[LeaderProcess] = SimpleQueue()

    def end(self, *_: object) -> None:
        """Stop for good. May be called from a signal handler."""
        self.stop.set()
        self.over.set()

    def replace_leader(self, leader: LeaderProcess) -> None:
        """Continue with another leader."""
        self._next.put(leader)
        self.over.set()

    def latest(self, leader: LeaderProcess) -> LeaderProcess:
        """The newest leader; the present one if there is no other."""
        self.over.clear()
        if self.stop.is_set():
            self.over.set()
        while not self._next.empty():
            leader = self._next.get()
        return leader


def main(ready: Callable[[], object]) -> None:
    """Be a dispatcher until SIGTERM; `ready` is called once it is a candidate.

    A reload changes the leader within the process: estimates are kept, and what was released to a key that is gone
    is reclaimed, as nobody redeems it.
    """
    supervisor = DispatcherSupervisor()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.end)
    parts = from_environment()
    parts.show_meters()
    leader = LeaderProcess(parts)
    follow = parts.follow(lambda settings: supervisor.replace_leader(_leader(parts.renewed(settings))))
    follow.start()
    ready()
    live(supervisor, leader)
    follow.close()


def live(supervisor: DispatcherSupervisor, leader: LeaderProcess) -> None:
    """Run one leader after the other, until the end."""
    while not supervisor.stop.is_set():
        leader = supervisor.latest(leader)
        run(leader, supervisor.over)


def _leader(parts: Container) -> LeaderProcess:
    """Build a leader, with every part that may find the configuration wrong. Raises ConfigError."""
    parts.sending_alerts  # noqa: B018
    return LeaderProcess(parts)


def run(leader: LeaderProcess, stop: threading.Event) -> None:
    """Be a candidate, lead, and go on until `stop`; then resign, and leave no thread behind."""
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
        except GenerationLost:
            stop.wait(AGAIN)  # another generation begins under the next term
        except (RedisUnreachable, DatabaseUnreachable) as error:
            log.warning("waiting", reason=str(error))
            stop.wait(AGAIN)
        except Exception as error:  # noqa: BLE001 - the next tick may succeed
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
    """Wait for all of them together: the next leader waits meanwhile."""
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
    leader.publisher.term = term
    leader.configure()
    while not stop.is_set():
        try:
            leading.set()
            _release(leader, stop)
        except GenerationLost:
            leading.clear()
            _begin_generation(leader, stop)
        except (RedisUnreachable, DatabaseUnreachable) as error:
            log.warning("waiting", reason=str(error))
            stop.wait(AGAIN)
        except NotLeading:
            raise
        except Exception as error:  # noqa: BLE001 - the next tick may succeed
            _failed(leader, stop, error)


def _release(leader: LeaderProcess, stop: threading.Event) -> None:
    wait = 0.0
    while not stop.is_set():
        tick = leader.dispatcher.tick(wait)
        leader.parts.meters.turned(tick.seconds)
        leader.requeueing.remember(tick.requeue)
        wait = tick.next_in


def _begin_generation(leader: LeaderProcess, stop: threading.Event) -> None:
    log.warning("Redis lost its data: rebuilding it from the database")
    begin_generation(
        leader.gate,
        leader.database,
        leader.dispatcher.topology,
        leader.clock,
        generation=uuid.uuid4().hex,
        upstreams=leader.upstream_of_key,
        configure=leader.configure,
        pause=stop.wait,
    )


def _loops(leader: LeaderProcess, leading: threading.Event) -> list[BackgroundLoop]:
    """The leader's other threads."""
    reconcile_due = 0.0

    def feed() -> None:
        leader.gate.wait_for_wake("penstock:wake:feeder", leader.feed())

    def reconcile() -> None:
        nonlocal reconcile_due
        leader.gate.reclaim(leader.stale)
        if leader.clock.monotonic() >= reconcile_due:
            reconcile_due = leader.clock.monotonic() + RECONCILE_EVERY
            run_due(leader.jobs, leader.clock.monotonic(), partial(_report, leader))

    def loop(name: str, once: Callable[[], object], every: float) -> BackgroundLoop:
        def body() -> None:
            if leading.wait(POLL):
                _while_leading(once)

        away = (RedisUnreachable, DatabaseUnreachable)
        return BackgroundLoop(name, body, every=every, expected=away, backoff=(AGAIN, LONGEST))

    return [
        loop("feeder", feed, 0.0),
        loop("healer", reconcile, RECLAIM_EVERY),
        loop("watcher", leader.watch.look, LOOK_EVERY),
        loop("tester", leader.watch.test, TEST_EVERY),
        loop("shares", leader.shares.look, SHARES_EVERY),
        loop("refeeder", leader.requeueing.flush, REQUEUE_EVERY),
    ]


def _while_leading(once: Callable[[], object]) -> None:
    try:
        once()
    except (NotLeading, GenerationLost):
        time.sleep(POLL)  # the release loop handles it


def _report(leader: LeaderProcess, job: str, error: Exception) -> None:
    """Log a job's failure, and count it unless Redis or the database is out of reach."""
    if isinstance(error, (NotLeading, GenerationLost)):
        return
    log.warning("a periodic job failed", job=job, error=repr(error))
    if not isinstance(error, (RedisUnreachable, DatabaseUnreachable)):
        leader.parts.meters.loop_failed(job)


def _resign(leader: LeaderProcess) -> None:
    try:
        if leader.gate.term:
            leader.requeueing.flush()
            leader.learned.keep()
    except DatabaseUnreachable:
        log.warning("estimates of the last seconds are lost")
    try:
        leader.gate.resign()
    except (NotLeading, RedisUnreachable):
        pass
