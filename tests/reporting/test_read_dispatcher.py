"""The operator's view, over a real gate and a real database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from app.dispatching.key_supervisor import KeySupervisor
from app.dispatching.publish_wait_reasons import PublishWaitReasons
from app.pacing.domain.rate_controller import CallReport, RateController
from app.pacing.store.leader_state import add_pause, load_pauses, remove_pause
from app.pacing.store.lines import Lines
from app.platform.database import Database
from app.platform.migrate import upgrade
from app.platform.ports import SystemClock
from app.platform.redis_scripts import Scripts, connect
from app.reporting.domain.bottleneck import Cause
from app.reporting.domain.snapshot import DispatcherSnapshot, KeyState
from app.reporting.read_dispatcher import ReadDispatcher
from app.reporting.read_service import ServiceReader
from app.reporting.store.pacing_snapshot import PacingSnapshotReader, WaitReasonReader, WaitReasonWriter
from app.settings.domain.routing import ConfiguredQuota, Topology
from app.tasks.domain.attempt import Outcome
from app.upstreams.domain.key_health import (
    Condition,
    HealthRules,
    Held,
    KeyHealth,
    KeyStatus,
    KeyTestResult,
    Probe,
    Probed,
)
from app.upstreams.store.health import load_health, save_health
from tests.pacing.pacing_world import GateWorld, HandClock, one_key

KEYS = (Held("k1", "u", "a1"),)
TOLD = ConfiguredQuota("account:a1:m", rpm=6000, concurrency=2)


class Upstream:
    """Finds what it is told to."""

    def __init__(self) -> None:
        self.finding = KeyTestResult.REFUSED
        self.asked: list[tuple[str, Probe]] = []

    def test(self, key: str, test: Probe) -> Probed:
        self.asked.append((key, test))
        return Probed(self.finding, 0.0, 0.1, 200)


@dataclass
class Office:
    """A leader with its watch, and who looks at them."""

    world: GateWorld
    database: Database
    upstream: Upstream
    watch: KeySupervisor
    clock: HandClock

    def turn(self) -> None:
        """One turn, told at once."""
        why = self.world.dispatcher.why
        assert why is not None
        why._due = 0.0
        self.world.dispatcher.tick()

    def read(self, url: str = "") -> DispatcherSnapshot:
        topology = self.world.topology
        client = connect(url or self.world.url, timeout=60)
        told = WaitReasonReader(Scripts(client), SystemClock(), Lines(self.database, SystemClock()))
        gauge = PacingSnapshotReader(client, topology.keys, topology.quota_ids)
        service = ServiceReader(self.database, gauge, told, SystemClock())
        return ReadDispatcher(service, topology, KEYS).read()

    def hear(self, outcome: Outcome) -> None:
        """To three requests of two clients: enough to close what it is about."""
        report = CallReport(outcome, "k1", "u", "a1", "m", 10.0, 10.5, 10.5, 0.5)
        tasks = (("a", "1"), ("a", "2"), ("b", "3"))
        self.watch.heard([replace(report, client=client, task=task) for client, task in tasks])


@pytest.fixture
def office(redis_url: str, sqlite_url: str) -> Iterator[Office]:
    upgrade(sqlite_url)
    database = Database(sqlite_url)
    topology: Topology = one_key(TOLD)
    world = GateWorld(redis_url, topology).lead()
    clock, upstream = HandClock(), Upstream()
    health = KeyHealth({held.name: held for held in KEYS}, HealthRules(retest=30))
    watch = KeySupervisor(database, health, upstream, clock, world.gate.release_brake)
    world.dispatcher.why = PublishWaitReasons(WaitReasonWriter(world.scripts))
    world.dispatcher.controller = RateController(topology)
    world.dispatcher.watch = watch
    yield Office(world, database, upstream, watch, clock)
    database.close()


def test_the_leader_its_quotas_and_its_workers_are_shown(office: Office) -> None:
    office.turn()
    idle = office.read()
    assert idle.holdup.words == "nothing waits"
    assert idle.leader.beats
    assert idle.leader.term == "term-1"
    assert [(worker.id, worker.slots) for worker in idle.workers] == [("w1", 100)]
    office.world.publish(10)
    office.world.fill(level=10)
    office.turn()
    office.turn()
    busy = office.read()
    quota = next(one for one in busy.quotas if one.id == "account:a1:m")
    assert (quota.told.rpm, quota.told.concurrency) == (6000, 2)
    assert (quota.flight, quota.last_minute, quota.waiting) == (2, 2, 8)
    assert busy.holdup.holder is Cause.LIMITS
    assert busy.holdup.words == (
        "limits: 2 concurrent calls of account a1, model m fully used (8 tasks wait for m)"
    )
    assert (busy.keys[0].state, busy.keys[0].flight, busy.keys[0].last_minute) == (KeyState.ACTIVE, 2, 2)
    assert (busy.leader.ticks or 0) >= 3


def test_a_brake_is_the_upstreams_and_so_is_an_open_breaker(office: Office) -> None:
    office.world.publish(1)
    office.world.gate.brake("account:a1:*", 30, "rate_limited (429)")
    office.turn()
    seen = office.read()
    assert seen.holdup.holder is Cause.UPSTREAM
    assert "u refuses, rate_limited (429)" in seen.holdup.words
    assert (seen.keys[0].state, seen.keys[0].reason) == (KeyState.BRAKED, "rate_limited (429)")
    assert office.world.dispatcher.controller is not None
    breaker = office.world.dispatcher.controller.breakers["upstream:u:m"]
    for second in range(10):  # enough evidence at a call a second
        breaker.settled(Outcome.UNAVAILABLE, float(second), second + 1.0)
    office.turn()
    assert next(q for q in office.read().quotas if q.id == "upstream:u:m").breaker is not None


def test_a_leader_that_is_silent_leads_no_more(office: Office) -> None:
    office.turn()
    office.world.scripts.command("DEL", "penstock:why")
    seen = office.read()
    assert not seen.leader.beats
    assert "no dispatcher leads" in seen.holdup.words


def test_without_redis_the_database_speaks(office: Office) -> None:
    office.database.write(lambda conn: add_pause(conn, "model:m", 5.0))
    seen = office.read("redis://127.0.0.1:1/0")
    assert (seen.redis, seen.database) == (False, True)
    assert seen.pauses == {"model:m": 5.0}


def test_a_pause_is_obeyed_until_it_ends_whoever_leads(office: Office) -> None:
    office.world.fill(level=10)
    office.database.write(lambda conn: add_pause(conn, "client:alice", 5.0))
    office.watch.recall()
    office.world.publish(2)
    office.world.publish(1, "bob")
    office.turn()
    assert office.world.length("key.k1") == 1
    office.turn()
    assert "client alice" in office.read().holdup.words
    office.database.write(lambda conn: remove_pause(conn, "client:alice"))
    office.watch.look()
    office.turn()
    assert office.world.length("key.k1") == 2  # as many as may run at once
    assert office.database.read(load_pauses) == {}


def test_a_refused_key_is_left_alone_until_a_test_finds_it_good(office: Office) -> None:
    office.world.fill(level=10)
    office.hear(Outcome.UNAUTHORIZED)
    office.world.gate.brake("key:k1:*", 600, "unauthorized (401)")
    office.world.publish(1)
    office.turn()
    office.watch.look()
    seen = office.read()
    assert seen.keys[0].state is KeyState.DISABLED
    assert seen.holdup.words.startswith("the upstream: u refuses, key k1 is disabled")
    assert office.database.read(load_health)["key:k1"].condition is Condition.DISABLED
    assert office.watch.test() == 0
    office.clock.at += 31
    assert office.watch.test() == 1
    office.turn()
    assert office.world.length("key.k1") == 0
    office.upstream.finding = KeyTestResult.WORKS
    office.clock.at += 100
    assert office.watch.test() == 1
    office.turn()
    assert office.world.length("key.k1") == 1
    assert office.upstream.asked == [("k1", Probe.MODELS)] * 2
    office.watch.look()
    assert office.database.read(load_health)["key:k1"].condition is Condition.ACTIVE


def test_what_an_operator_gives_back_in_the_database_is_taken_up(office: Office) -> None:
    office.hear(Outcome.NO_BALANCE)
    office.watch.look()
    assert set(office.watch.suspensions().keys) == {"k1"}
    later = {"account:a1": KeyStatus(since=office.clock.at + 1)}
    office.database.write(lambda conn: save_health(conn, later, 0.0))
    office.watch.look()
    assert office.watch.suspensions().keys == {}


def test_a_new_leader_knows_what_the_old_one_knew(office: Office) -> None:
    office.hear(Outcome.UNAUTHORIZED)
    office.watch.look()
    office.database.write(lambda conn: save_health(conn, {"key:gone": KeyStatus()}, 0.0))
    health = KeyHealth({held.name: held for held in KEYS}, HealthRules(retest=30))
    successor = KeySupervisor(
        office.database, health, office.upstream, office.clock, office.world.gate.release_brake
    )
    successor.recall()
    assert set(successor.suspensions().keys) == {"k1"}
    assert set(office.database.read(load_health)) == {"key:k1"}
