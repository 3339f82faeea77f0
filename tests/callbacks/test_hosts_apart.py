"""A host that fails or is slow delays no other, and no try is used up for waiting."""

import queue
import threading
from collections.abc import Callable

import pytest

from app.callbacks.callback_http import (
    MAX_QUEUED,
    AtCapacity,
    CallbackHttp,
    Go,
    HostConcurrencyLimiter,
    HostLimits,
    Paused,
)
from app.callbacks.domain.callback import DeliveryReply, HostHealth, SignedCallback
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.domain.url_rules import TargetRules, host_of, parse_networks
from app.platform.ports import SystemClock
from tests.callbacks.receivers import RawReceiver, answering, silent
from tests.callbacks.world import MovedClock, World
from tests.stack import wait_until

BAD, GOOD = "https://bad.example/hook", "https://good.example/hook"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def told(world: World) -> World:
    """A task that has ended."""
    world.add_task()
    return world


def _add(world: World, url: str, count: int, prefix: str) -> list[str]:
    return world.add_callbacks([f"evt_{prefix}_{number}" for number in range(count)], url)


def _in_threads(count: int, deliver: Callable[[str], None], ids: list[str]) -> list[threading.Thread]:
    """A worker's pool: so many threads take ids, first come, first served."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for id_ in ids:
        waiting.put(id_)

    def work() -> None:
        while True:
            try:
                deliver(waiting.get_nowait())
            except queue.Empty:
                return

    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_five_failures_in_a_row_leave_a_host_alone_without_using_up_tries(told: World) -> None:
    ids = _add(told, BAD, 8, "bad")
    told.receivers.answers[BAD] = DeliveryReply(None, error="connection refused")
    told.run()
    assert len(told.receivers.sent) == 5
    assert [told.callback(id_).tries for id_ in ids] == [1] * 5 + [0] * 3
    told.clock.move(29)
    told.run()
    assert len(told.receivers.sent) == 5


def test_after_its_pause_a_host_gets_one_at_a_time_until_it_answers(told: World) -> None:
    _add(told, BAD, 8, "bad")
    told.receivers.answers[BAD] = DeliveryReply(503)
    told.run()
    told.clock.move(40)
    told.run()
    assert len(told.receivers.sent) == 6
    told.receivers.answers.clear()
    for _ in range(8):
        told.clock.move(60)
        told.run()
    assert len(told.receivers.sent) == 6 + 8
    assert {told.callback(f"evt_bad_{number}").status for number in range(8)} == {"delivered"}


def test_another_host_is_served_while_one_is_left_alone(told: World) -> None:
    _add(told, BAD, 8, "bad")
    told.receivers.answers[BAD] = DeliveryReply(503)
    told.run()
    ids = _add(told, GOOD, 5, "good")
    told.run()
    assert {told.callback(id_).status for id_ in ids} == {"delivered"}


def test_429_leaves_the_whole_host_alone_for_as_long_as_it_asks(told: World) -> None:
    ids = _add(told, BAD, 3, "bad")
    told.receivers.answers[BAD] = DeliveryReply(429, {"retry-after": "100"})
    told.run()
    assert len(told.receivers.sent) == 1
    told.receivers.answers.clear()
    told.clock.move(99)
    told.run()
    assert len(told.receivers.sent) == 1
    told.clock.move(30)
    told.run()
    assert {told.callback(id_).status for id_ in ids} == {"delivered"}


def test_no_host_has_more_in_the_air_than_allowed_and_what_waits_in_line_follows(told: World) -> None:
    told.limits = HostLimits(at_once=3)
    process = told.another_process()
    ids = _add(told, GOOD, 40, "good")
    now, peak, lock = 0, 0, threading.Lock()
    go_on = threading.Event()

    def answer(parcel: SignedCallback) -> DeliveryReply:
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
        assert go_on.wait(120)
        with lock:
            now -= 1
        return DeliveryReply(200)

    told.receivers.answers[GOOD] = answer
    threads = _in_threads(12, process.deliver, ids)
    # All others have found the host crowded, and left what they had in line.
    wait_until(lambda: sum(thread.is_alive() for thread in threads) == 3 and now == 3)
    go_on.set()
    for thread in threads:
        thread.join()
    assert peak == 3
    assert {told.callback(id_).status for id_ in ids} == {"delivered"}
    assert len(told.receivers.sent) == 40


def test_a_silent_host_holds_up_nobody_over_real_sockets(told: World) -> None:
    rules = TargetRules(ports=((1, 65535),), networks=parse_networks(["127.0.0.1"]))
    with RawReceiver(silent) as slow, RawReceiver(answering(OK)) as quick:
        courier = CallbackHttp(rules, timeout_seconds=120)
        process = told.another_process(courier)
        ids = _add(told, slow.url(), 30, "slow") + _add(told, quick.url(), 30, "quick")
        threads = _in_threads(16, process.deliver, ids)
        quick_ids = [id_ for id_ in ids if "quick" in id_]
        wait_until(lambda: told.statuses(quick_ids) == {"delivered"}, what="held up")
        assert slow.connections <= 10
        # Those who still wait for the silent host; who was served last may be on his way out.
        wait_until(lambda: sum(thread.is_alive() for thread in threads) == 10)
    for thread in threads:
        thread.join()
    courier.close()


def test_when_the_process_ends_nobody_is_left_in_line(told: World) -> None:
    guard = HostConcurrencyLimiter(MovedClock(), HostLimits(at_once=1))
    assert isinstance(guard.enter("h", "evt_1"), Go)
    assert isinstance(guard.enter("h", "evt_2"), AtCapacity)
    guard.close()
    assert guard.take_next("h") is None
    assert isinstance(guard.enter("h", "evt_3"), Paused)


def test_a_line_is_bounded_and_takes_nobody_twice() -> None:
    guard = HostConcurrencyLimiter(MovedClock(), HostLimits(at_once=1))
    guard.enter("h", "evt_first")
    for number in range(MAX_QUEUED):
        assert isinstance(guard.enter("h", f"evt_{number}"), AtCapacity)
    assert isinstance(guard.enter("h", "evt_7"), AtCapacity)
    assert isinstance(guard.enter("h", "evt_more"), Paused)
    guard.leave("h", HostHealth.GOOD)
    assert guard.take_next("h") == "evt_0"


def test_ever_new_hosts_do_not_fill_the_memory() -> None:
    clock = MovedClock()
    guard = HostConcurrencyLimiter(clock)
    for number in range(30_000):
        assert isinstance(guard.enter(f"h{number}", "evt"), Go)
        guard.leave(f"h{number}", HostHealth.GOOD)
    assert len(guard._slots) <= 10_000


def test_the_real_clock_fits_the_port() -> None:
    assert isinstance(HostConcurrencyLimiter(SystemClock()).enter("h", "evt_1"), Go)


@pytest.mark.parametrize("failing", [1, 2])
def test_a_line_is_not_left_alone_when_the_database_goes_away(
    told: World, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """The only one in the air cannot be claimed, or the next that it takes along; the feeder rings the rest again."""
    guard = HostConcurrencyLimiter(told.clock, HostLimits(at_once=1))
    told.delivery = told.another_process(guard=guard)
    first, *others = ids = _add(told, GOOD, 4, "good")
    write, claims = told.database.write, list[str]()

    def stand_in_line_or_fail(fn: Callable[[object], object]) -> object:
        if not claims:
            claims.append("begun")
            for id_ in others:
                told.delivery.deliver(id_)
        claims.append("write")
        if len(claims) - 1 >= (1 if failing == 1 else 3):
            raise DatabaseUnreachable("gone")
        return write(fn)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(told.database, "write", stand_in_line_or_fail)
        with pytest.raises(DatabaseUnreachable):
            told.delivery.deliver(first)
    assert guard.take_next(host_of(GOOD)) is None
    told.clock.move(31)
    told.run()
    assert sorted(told.receivers.ids()) == sorted(ids)
