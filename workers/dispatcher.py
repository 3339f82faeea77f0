"""The dispatcher process: several may run, one leads.

Five loops: release (this thread), feed, heal, look at pauses, test keys. Each waits for its doorbell or its next due
instant. A loop that meets
a lost Redis or database waits and goes on; the term in every script keeps a leader that was overtaken from doing harm.
"""

from __future__ import annotations

import signal
import threading
import uuid
from collections.abc import Callable
from queue import SimpleQueue

import structlog

from app.adapters.gate import EpochBroken, NotLeading
from app.bootstrap import Penstock, from_environment
from app.domain.errors import DatabaseUnreachable, RedisUnreachable
from app.services.begin_epoch import begin_epoch
from app.services.reconcile import heal
from workers.leader import Leader

log = structlog.get_logger("penstock.dispatcher")

POLL = 0.25  # seconds between a candidate's looks at the leader's beat
AGAIN = 0.5  # seconds after something could not be reached
HEAL_EVERY = 1.0
TAKE_BACK_EVERY = 0.25
LOOK_EVERY = 0.4  # a pause is obeyed within a second
TEST_EVERY = 1.0


class Life:
    """From one configuration to the next, until SIGTERM."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.over = threading.Event()  # of the leader at work
        self._next: SimpleQueue[Leader] = SimpleQueue()

    def end(self, *_: object) -> None:
        """Stop for good. May be called from a signal handler."""
        self.stop.set()
        self.over.set()

    def hand_over(self, leader: Leader) -> None:
        """Go on with another one."""
        self._next.put(leader)
        self.over.set()

    def heir(self, leader: Leader) -> Leader:
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
    life = Life()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, life.end)
    parts = from_environment()
    parts.show_meters()
    leader = Leader(parts)
    follow = parts.follow(lambda settings: life.hand_over(_leader(parts.renewed(settings))))
    follow.start()
    ready()
    while not life.stop.is_set():
        leader = life.heir(leader)
        run(leader, life.over)
    follow.close()


def _leader(parts: Penstock) -> Leader:
    """With whatever may find the configuration wrong. Raises ConfigError."""
    parts.sending_alerts  # noqa: B018
    return Leader(parts)


def run(leader: Leader, stop: threading.Event) -> None:
    """Stand for leader, lead, and go on until `stop`; then make room for a successor."""
    leading = threading.Event()
    loops = [
        threading.Thread(target=_feed, args=(leader, leading, stop), name="feeder", daemon=True),
        threading.Thread(target=_heal, args=(leader, leading, stop), name="healer", daemon=True),
        threading.Thread(target=_look, args=(leader, leading, stop), name="watcher", daemon=True),
        threading.Thread(target=_test, args=(leader, leading, stop), name="tester", daemon=True),
    ]
    watch = leader.parts.keep_alerts(may=leading.is_set)
    for loop in loops:
        loop.start()
    watch.start()
    while not stop.is_set():
        try:
            _lead(leader, leading, stop)
        except NotLeading:
            log.warning("another dispatcher leads now")
        except (RedisUnreachable, DatabaseUnreachable) as error:
            log.warning("waiting", reason=str(error))
            stop.wait(AGAIN)
        finally:
            leading.clear()
    _resign(leader)
    watch.close()
    for loop in loops:
        loop.join(5)


def _lead(leader: Leader, leading: threading.Event, stop: threading.Event) -> None:
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


def _release(leader: Leader, stop: threading.Event) -> None:
    wait = 0.0
    while not stop.is_set():
        turn = leader.dispatcher.turn(wait)
        leader.parts.meters.turned(turn.seconds)
        leader.refeeding.refeed(turn.refeed)
        wait = turn.next_in


def _begin_epoch(leader: Leader, stop: threading.Event) -> None:
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


def _feed(leader: Leader, leading: threading.Event, stop: threading.Event) -> None:
    _loop(
        "feeder",
        leading,
        stop,
        lambda: leader.gate.wait_for_wake("penstock:wake:feeder", leader.feed()),
    )


def _heal(leader: Leader, leading: threading.Event, stop: threading.Event) -> None:
    due = 0.0

    def round_() -> None:
        nonlocal due
        leader.gate.take_back(leader.stale)
        if leader.clock.monotonic() >= due:
            due = leader.clock.monotonic() + HEAL_EVERY
            heal(leader.healing, _report)
        stop.wait(TAKE_BACK_EVERY)

    _loop("healer", leading, stop, round_)


def _look(leader: Leader, leading: threading.Event, stop: threading.Event) -> None:
    def once() -> None:
        leader.watch.look()
        stop.wait(LOOK_EVERY)

    _loop("watcher", leading, stop, once)


def _test(leader: Leader, leading: threading.Event, stop: threading.Event) -> None:
    def once() -> None:
        leader.watch.test()
        stop.wait(TEST_EVERY)

    _loop("tester", leading, stop, once)


def _loop(name: str, leading: threading.Event, stop: threading.Event, once: Callable[[], object]) -> None:
    while not stop.is_set():
        if not leading.wait(POLL):
            continue
        try:
            once()
        except (NotLeading, EpochBroken):
            stop.wait(POLL)
        except (RedisUnreachable, DatabaseUnreachable) as error:
            log.warning("waiting", loop=name, reason=str(error))
            stop.wait(AGAIN)
        except Exception:
            log.exception("a loop met an error and goes on", loop=name)
            stop.wait(AGAIN)


def _report(step: str, error: Exception) -> None:
    if not isinstance(error, (NotLeading, EpochBroken)):
        log.warning("healing step failed", step=step, error=repr(error))


def _resign(leader: Leader) -> None:
    try:
        if leader.gate.term:
            leader.learned.keep()
    except DatabaseUnreachable:
        log.warning("what was learned in the last seconds is lost")
    try:
        leader.gate.resign()
    except (NotLeading, RedisUnreachable):
        pass
