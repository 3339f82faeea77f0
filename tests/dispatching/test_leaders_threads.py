"""A reload is a change of leader within the process: the old one's threads end, however often, whatever they do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.composition.container import Container
from app.composition.dispatcher import LeaderProcess
from app.platform.background_loop import BackgroundLoop
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.migrate import upgrade
from app.settings import load_settings
from tests.stack import PATIENCE, Key, configuration, key_environment, wait_until
from workers import dispatcher
from workers.dispatcher import DispatcherSupervisor, live

KEYS = [Key("k1", rpm=600, concurrency=5)]
RELOADS = 4


@pytest.fixture
def parts(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Container]:
    file = tmp_path / "penstock.toml"
    file.write_text(configuration("http://127.0.0.1:9", KEYS))
    url = f"sqlite:///{tmp_path}/penstock.db"
    upgrade(url)
    for name, value in key_environment(KEYS).items():
        monkeypatch.setenv(name, value)
    made = Container(load_settings(file, {"DATABASE_URL": url, "REDIS_URL": redis_url}))
    assert made.database  # one for all leaders, as in the process
    yield made
    made.database.close()


class Running:
    """A dispatcher process' life in a thread."""

    def __init__(self, parts: Container) -> None:
        self.parts = parts
        self.life = DispatcherSupervisor()
        self.leader = self.make()
        self._thread = threading.Thread(target=live, args=(self.life, self.leader), daemon=True)

    def make(self) -> LeaderProcess:
        leader = LeaderProcess(self.parts.renewed(self.parts.settings))
        leader.holder.start()
        leader.intakes.submit("batch_unknown")
        return leader

    def start(self) -> None:
        self._thread.start()
        self.leads(self.leader)

    def reload(self) -> None:
        self.leader = self.make()
        self.life.replace_leader(self.leader)
        self.leads(self.leader)

    def leads(self, leader: LeaderProcess) -> None:
        wait_until(lambda: leader.dispatcher.ticks > 0, within=30, what=f"the leader takes turns: {names()}")

    @property
    def name(self) -> str:
        """Of the thread that takes turns."""
        return self._thread.name

    def end(self) -> None:
        self.life.end()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


def names() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate())


def settled(wanted: Callable[[], bool]) -> None:
    wait_until(wanted, within=30, what=str(names()))


def test_several_reloads_leave_no_thread_behind(parts: Container) -> None:
    running = Running(parts)
    running.start()
    settled(
        lambda: (
            {"feeder", "healer", "watcher", "tester", "shares", "refeeder", "alerts", "intakes"}
            <= set(names())
        )
    )
    one_leader = names()
    for _ in range(RELOADS):
        running.reload()
    settled(lambda: names() == one_leader)
    running.end()
    settled(
        lambda: (
            not {"feeder", "healer", "watcher", "tester", "shares", "refeeder", "alerts", "intakes"}
            & set(names())
        )
    )


def test_a_loop_that_was_busy_for_longer_than_is_waited_ends_when_it_can(
    parts: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "JOIN", 0.05)
    running = Running(parts)
    begun, may_end = threading.Event(), threading.Event()

    def slow_test() -> int:
        begun.set()
        may_end.wait(PATIENCE)
        return 0

    running.leader.watch.test = slow_test  # type: ignore[method-assign]
    running.start()
    assert begun.wait(PATIENCE)
    running.reload()
    assert names().count("tester") == 2
    may_end.set()
    settled(lambda: names().count("tester") == 1)
    running.end()


def test_the_leader_survives_a_turn_that_meets_what_nobody_expected(parts: Container) -> None:
    running = Running(parts)
    tick, failed = running.leader.dispatcher.tick, threading.Event()

    def poisoned(wait: float = 0.0) -> object:
        if not failed.is_set():
            failed.set()
            raise IndexError("pop from an empty deque")
        return tick(wait)

    object.__setattr__(running.leader, "dispatcher", Poisoned(running.leader.dispatcher, poisoned))
    running.start()
    assert failed.is_set()
    running.end()


def test_turns_wait_for_no_database(parts: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen database would hold the leader's beat, and it is led by another within two seconds."""
    running = Running(parts)
    running.start()
    client = parts.scripts.client
    wait_until(
        lambda: client.hget("penstock:gate", "run_id") is not None, within=30, what="the generation is open"
    )
    thawed = threading.Event()
    asked: list[str] = []

    def frozen(_fn: object) -> object:
        asked.append(threading.current_thread().name)
        thawed.wait(PATIENCE)
        raise DatabaseUnreachable("frozen")

    for name in ("read", "write"):
        monkeypatch.setattr(parts.database, name, frozen)
    client.sadd("penstock:refeed", "task_gone")
    wait_until(lambda: not client.scard("penstock:refeed"), within=30, what="a turn takes what is to be fed")
    turns, term = running.leader.dispatcher.ticks, client.hget("penstock:gate", "term")
    wait_until(lambda: running.leader.dispatcher.ticks > turns + 5, within=30, what="turns go on")
    assert client.hget("penstock:gate", "term") == term
    assert running.name not in asked
    monkeypatch.undo()
    thawed.set()
    running.end()


def test_a_successor_waits_once_for_all_that_is_busy_not_for_each(
    parts: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that does not answer holds every loop, and those of the alerts and intakes too."""
    now, joined = [1000.0], dict[str, float]()

    class Busy(BackgroundLoop):
        def join(self, seconds: float | None = 5.0) -> bool:
            joined[self.name] = seconds or 0.0
            now[0] += seconds or 0.0
            return False

    monkeypatch.setattr(dispatcher, "BackgroundLoop", Busy)
    monkeypatch.setattr(dispatcher, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep))
    stop = threading.Event()
    stop.set()
    dispatcher.run(LeaderProcess(parts), stop)
    assert {"feeder", "healer", "watcher", "tester", "shares", "refeeder", "closing"} <= set(joined)
    assert sum(joined.values()) == dispatcher.JOIN


class Poisoned:
    """A dispatcher whose ticks are replaced."""

    def __init__(self, inner: object, tick: Callable[..., object]) -> None:
        self._inner = inner
        self.tick = tick

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)
