"""Who watches, what stands in the rows, and what is sent; time is moved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest

from app.access.store.clients import add_client
from app.billing.domain.budget import Spent
from app.billing.store.budgets import add_spent
from app.platform.database import Database
from app.platform.dialects import insert_rows
from app.platform.domain.errors import RedisUnreachable
from app.reporting.domain.alerts import AlertState, Readings
from app.reporting.domain.snapshot import PacingSnapshot
from app.reporting.measure_alerts import MeasureAlerts
from app.reporting.send_alerts import ChannelAddresses, SendAlerts
from app.reporting.store import alerts as rows
from app.reporting.watch_alerts import LOOKS, AlertLoop, NobodyLeads, NoteVitals, WatchAlerts, Watching
from app.settings.domain.alert_rules import RULES, Rule, Severity
from app.tasks.domain.attempt import Outcome
from app.tasks.store.tables import attempt
from app.upstreams.domain.key_health import Condition, KeyStatus
from app.upstreams.store.health import save_health
from tests.pacing.pacing_world import HandClock

BUDGET = next(rule for rule in RULES if rule.name == "budget")
CHANNEL = "json://channel"
BEAT = "https://beat"


@dataclass
class Post:
    """Takes messages; an address can be broken."""

    broken: set[str] = field(default_factory=set)
    sent: list[tuple[str, str, bool]] = field(default_factory=list)
    visits: int = 0

    def notify(self, url: str, title: str, text: str, severity: Severity, *, resolved: bool) -> str | None:
        if url in self.broken:
            return "it did not arrive"
        self.sent.append((title, text, resolved))
        return None

    def post(self, url: str, body: Sequence[Mapping[str, object]]) -> str | None:
        raise AssertionError("no channel is an Alertmanager")

    def visit(self, url: str) -> str | None:
        self.visits += 1
        return None if url not in self.broken else "answered 500"


class AtOnce(SendAlerts):
    """Sends in the caller's thread."""

    def _put(self, job: Any) -> None:
        job()


@dataclass
class World:
    """Processes that may watch one database."""

    database: Database
    clock: HandClock = field(default_factory=lambda: HandClock(1_800_000_000.0))
    post: Post = field(default_factory=Post)
    readings: dict[str, dict[str, float] | None] = field(default_factory=dict)
    names: Any = field(default_factory=lambda: count(1))
    urls: Sequence[str] = (CHANNEL,)

    def watcher(self, rules: Sequence[Rule] = (BUDGET,), **more: Any) -> WatchAlerts:
        addresses = ChannelAddresses(lambda _severity: [(url, "") for url in self.urls], lambda: (BEAT, ""))
        sending = AtOnce(
            self.post, addresses, {r.name: r for r in rules}, "runbook", self.database, self.clock
        )
        sending._closed.set()  # a broken channel is not waited for
        return WatchAlerts(
            f"process-{next(self.names)}",
            self.database,
            self.measure,
            sending,
            Watching(rules, group_seconds=0, **more),
            self.clock,
        )

    def measure(self) -> Readings:
        return self.readings


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def test_one_of_two_watches_and_is_succeeded_once_its_beat_stands_still(world: World) -> None:
    one, other = world.watcher(), world.watcher()
    assert one.tick()
    for _ in range(5):
        world.clock.at += 5
        assert one.tick()
        assert not other.tick()
    world.clock.at += LOOKS * 5 - 1
    assert not other.tick()
    world.clock.at += 10
    assert other.tick()
    assert not one.tick()


def test_who_leaves_is_succeeded_at_once(world: World) -> None:
    one, other = world.watcher(), world.watcher()
    one.tick()
    one.leave()
    assert other.tick()
    one.leave()  # it watches no more: nothing happens
    assert not one.tick()


def test_two_who_take_a_silent_watch_at_once_do_not_both_get_it(world: World) -> None:
    first = world.database.write(lambda conn: rows.watch(conn, "gone", ("", 0)))
    assert first
    seen = world.database.read(rows.watcher)
    took = [world.database.write(lambda conn, me=me: rows.watch(conn, me, seen)) for me in ("a", "b")]
    assert took == [True, False]
    assert not world.database.write(lambda conn: rows.watch(conn, "c", ("", 0)))


def test_what_still_fires_is_told_again_after_a_while_and_until_it_is_over(world: World) -> None:
    watcher = world.watcher(repeat_seconds=3600)
    world.readings = {"budget": {"alice": 0.9}}
    for _ in range(2):
        watcher.tick()
        assert len(world.post.sent) == 1
        world.clock.at += 1800
    for told in (2, 2, 3):
        watcher.tick()
        assert len(world.post.sent) == told
        world.clock.at += 1800
    assert all("FIRING budget (alice)" in text for _, text, _ in world.post.sent)
    world.readings = {"budget": {}}
    watcher.tick()
    assert world.post.sent[-1][2]
    world.clock.at += 7200
    watcher.tick()
    assert len(world.post.sent) == 4


class Killed(BaseException):
    """kill -9 right after a message went out, before that is noted."""


def test_a_message_whose_sender_was_killed_is_told_again_as_things_stand_then(world: World) -> None:
    def watcher_to_be_killed() -> WatchAlerts:
        watcher = world.watcher()
        send = watcher.sending.deliver

        def deliver(*args: Any, **more: Any) -> Any:
            send(*args, **more)
            raise Killed

        watcher.sending.deliver = deliver  # type: ignore[method-assign]
        return watcher

    def succeed(watcher: WatchAlerts, reading: float) -> None:
        watcher.tick()  # sees the silent watch
        world.clock.at += LOOKS * 5 + 1
        world.readings = {"budget": {"alice": reading}}
        watcher.tick()

    world.readings = {"budget": {"alice": 0.9}}
    with pytest.raises(Killed):
        watcher_to_be_killed().tick()
    with pytest.raises(Killed):  # killed again, when it tells the end of what its predecessor told
        succeed(watcher_to_be_killed(), 0.1)
    successor = world.watcher()
    succeed(successor, 0.9)  # it fires again at once
    assert [resolved for _, _, resolved in world.post.sent] == [False, True, False]
    world.clock.at += 5
    world.readings = {"budget": {"alice": 0.1}}
    successor.tick()
    successor.tick()
    assert [resolved for _, _, resolved in world.post.sent] == [False, True, False, True]


def test_a_successor_tells_the_end_and_not_the_beginning_again(world: World) -> None:
    one, other = world.watcher(), world.watcher()
    world.readings = {"budget": {"alice": 0.9}}
    one.tick()
    one.leave()
    other.tick()
    assert [resolved for _, _, resolved in world.post.sent] == [False]
    world.readings = {"budget": {"alice": 0.1}}
    other.tick()
    assert [resolved for _, _, resolved in world.post.sent] == [False, True]
    assert "RESOLVED budget (alice)" in world.post.sent[-1][1]


def test_what_was_not_told_before_a_watcher_was_killed_is_told_by_its_successor(world: World) -> None:
    one, other = world.watcher(), world.watcher()
    world.readings = {"budget": {"alice": 0.9}}
    one.sending.send = lambda digest, done: None  # type: ignore[method-assign]  # killed before it sends
    one.tick()
    one.leave()
    other.tick()
    assert len(world.post.sent) == 1


def test_a_channel_that_does_not_work_is_noted_and_keeps_no_other_from_it(world: World) -> None:
    world.urls = ("json://broken/secret", CHANNEL)
    world.post.broken = {"json://broken/secret"}
    world.readings = {"budget": {"alice": 0.9}}
    world.watcher().tick()
    first, second = world.database.read(rows.load_channels)
    assert (first.name, first.error) == ("warning 1", "it did not arrive")
    assert (second.name, second.error) == ("warning 2", None)
    assert len(world.post.sent) == 1


def test_the_heartbeat_is_called_every_minute_while_nothing_fires(world: World) -> None:
    watcher = world.watcher()
    for _ in range(25):
        watcher.tick()
        world.clock.at += 5
    assert world.post.visits == 3
    world.readings = {"budget": {"alice": 0.9}}
    for _ in range(25):
        watcher.tick()
        world.clock.at += 5
    assert world.post.visits == 3


def test_an_api_process_watches_only_while_no_leader_beats(world: World) -> None:
    gate = Leading()
    vitals = NoteVitals("p", "host", world.database, world.clock, lambda: 0.5)
    watch = world.watcher()
    keep = AlertLoop(vitals, watch, NobodyLeads(gate, world.clock))
    for _ in range(3):
        world.clock.at += 5
        gate.beat += 20
        keep.tick()
        assert not watch.watches
    world.clock.at += 5  # the leader was killed
    keep.tick()
    assert watch.watches
    gate.beat += 1
    keep.tick()
    assert not watch.watches
    gate.away = True
    keep.tick()
    assert watch.watches


@dataclass
class Leading:
    """The gate, with a leader that beats when it is made to."""

    beat: int = 1
    away: bool = False

    def look(self) -> PacingSnapshot:
        if self.away:
            raise RedisUnreachable("away")
        return PacingSnapshot(term="t", beat=self.beat)


def test_vitals_are_told_every_ten_seconds_and_believed_for_a_while(world: World) -> None:
    answered = count(0, 500)
    vitals = NoteVitals("p", "host", world.database, world.clock, lambda: 0.9, lambda: next(answered))
    for _ in range(3):
        vitals.tick()
        world.clock.at += 5
    cpu, requests = world.database.read(lambda conn: rows.load_vitals(conn, world.clock.now()))
    assert cpu == {"host": 0.9}
    assert requests == pytest.approx(100.0)  # 1,000 in 10 s
    world.clock.at += 60
    assert world.database.read(lambda conn: rows.load_vitals(conn, world.clock.now())) == ({}, 0.0)


class TestMeasures:
    """What is read of the database."""

    def calls(self, world: World, outcome: Outcome, many: int, *, late: float = 0.0) -> None:
        now = world.clock.now()
        columns = ("task_id", "client_id", "release", "worker", "key", "account", "upstream_model")
        columns = (*columns, "outcome", "counted", "released_at", "started_at", "finished_at")
        one = ("t", "alice", 1, "w", "k1", "acme", "m", outcome.value, True, now - 1 - late, now - 1, now)
        world.database.write(lambda conn: insert_rows(conn, attempt, columns, [one] * many))

    def test_calls_are_read_once_also_those_of_before_it_began(self, world: World) -> None:
        self.calls(world, Outcome.SUCCEEDED, 30, late=2.0)
        measure = MeasureAlerts(world.database, world.clock)
        readings = measure.read()
        assert readings["error_rate"] == {"": 0.0}
        assert readings["overhead"] == {"": pytest.approx(2.0)}
        self.calls(world, Outcome.UNAVAILABLE, 10)
        for _ in range(2):
            readings = measure.read()
            assert readings["error_rate"] == {"": 0.25}
        assert readings["no_success"] == {"": 0.0}

    def test_a_budget_is_measured_by_its_most_used_limit(self, world: World) -> None:
        limits = '{"limits": {"tokens_per_day": 100, "tokens_per_month": 1000}}'

        def fill(conn: Any) -> None:
            add_client(conn, "alice", "whsec_x", 0.0, settings=limits)
            add_client(conn, "bob", "whsec_x", 0.0)
            for name in ("alice", "bob"):
                add_spent(conn, name, world.clock.now(), Spent(85, 0))

        world.database.write(fill)
        assert MeasureAlerts(world.database, world.clock).read()["budget"] == {"alice": 0.85}

    def test_keys_and_accounts_are_as_their_tests_found_them(self, world: World) -> None:
        statuses = {
            "key:k1": KeyStatus(Condition.DISABLED),
            "key:k2": KeyStatus(),
            "account:acme": KeyStatus(Condition.NO_BALANCE),
        }
        world.database.write(lambda conn: save_health(conn, statuses, 0.0))
        readings = MeasureAlerts(world.database, world.clock).read()
        assert readings["key_disabled"] == {"k1": 1.0, "k2": 0.0}
        assert readings["balance_low"] == {"acme": 1.0}

    def test_nobody_knows_the_cpu_of_machines_that_have_not_told_it(self, world: World) -> None:
        assert MeasureAlerts(world.database, world.clock).read()["cpu"] is None


def test_alerts_come_back_from_their_rows_as_they_went_in(world: World) -> None:
    world.readings = {"budget": {"alice": 0.9}}
    world.watcher().tick()
    [alert] = world.database.read(rows.load_alerts).values()
    assert (alert.state, alert.notified, alert.value) == (AlertState.FIRING, True, 0.9)
    world.readings = {"budget": {}}
    watcher = world.watcher()
    world.clock.at += 20
    watcher.tick()
    world.clock.at += 20
    watcher.tick()
    [alert] = world.database.read(rows.load_alerts).values()
    assert (alert.state, alert.notified) == (AlertState.RESOLVED, False)
