"""What the leader does each second: everything due is notified, nothing twice at once, no host before another."""

from sqlalchemy import event, update

from app.callbacks.feed_callbacks import MOST_A_TICK
from app.tasks.store.tables import callback
from tests.callbacks.world import World


def _fill(world: World, host: str, count: int, prefix: str) -> None:
    ids = [f"evt_{prefix}_{number}" for number in range(count)]
    world.add_callbacks(ids, f"https://{host}/", host=f"{host}:443")


def test_what_is_due_is_rung_once_and_again_only_after_half_a_minute(world: World) -> None:
    world.add_callback()
    world.feeder.tick()
    assert world.bell.take() == ["evt_1"]
    for _ in range(29):
        world.clock.move(1)
        world.feeder.tick()
    assert world.bell.take() == []
    world.clock.move(1)
    world.feeder.tick()
    assert world.bell.take() == ["evt_1"]


def test_what_is_not_due_is_not_rung(world: World) -> None:
    world.add_callback("evt_later", ring_at=world.clock.now() + 5)
    world.add_callback("evt_done", status="delivered")
    world.add_callback("evt_dead", status="failed")
    world.feeder.tick()
    assert world.bell.take() == []


def test_a_host_with_a_long_queue_delays_no_other(world: World) -> None:
    _fill(world, "a.example", MOST_A_TICK + 50, "a")
    _fill(world, "b.example", 3, "b")
    _fill(world, "z.example", 2, "z")
    world.feeder.tick()
    notified = world.bell.take()
    assert {id_ for id_ in notified if "_a_" not in id_} == {f"evt_b_{n}" for n in range(3)} | {
        "evt_z_0",
        "evt_z_1",
    }
    assert MOST_A_TICK - 10 <= len(notified) <= MOST_A_TICK


def test_what_has_never_been_tried_comes_first(world: World) -> None:
    _fill(world, "a.example", 30, "a")
    world.add_callback("evt_new")
    world.bell.most = 10
    world.feeder.tick()
    assert "evt_new" in world.bell.take()


def test_the_oldest_of_a_host_come_first(world: World) -> None:
    for number in range(5):
        world.add_callback(f"evt_{number}", host="h:1", ring_at=world.clock.now() - number)
    world.bell.most = 2
    world.feeder.tick()
    assert sorted(world.bell.take()) == ["evt_3", "evt_4"]


def test_many_hosts_all_get_their_turn(world: World) -> None:
    ids = [f"evt_{number}" for number in range(1200)]
    world.add_callbacks(ids, host=[f"h{number:04}:443" for number in range(1200)])
    world.clock.move(1)
    notified: set[str] = set()
    for _ in range(6):
        world.feeder.tick()
        notified |= set(world.bell.take())
        world.clock.move(1)
    assert len(notified) == 1200


def test_a_full_queue_or_a_silent_redis_leaves_everything_for_later(world: World) -> None:
    world.add_callback()
    world.bell.silent = True
    world.feeder.tick()
    world.bell.silent = False
    world.bell.most = 0
    world.feeder.tick()
    world.bell.most = 10
    world.feeder.tick()
    assert world.bell.take() == ["evt_1"]


class Breaking:
    """A bell whose Redis goes away between question and publishing."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def room(self) -> int:
        return 100

    def notify(self, callback_ids: object) -> object:
        self.asked += callback_ids  # type: ignore[operator]
        return callback_ids


def test_what_could_not_be_published_is_rung_at_the_next_tick(world: World) -> None:
    world.add_callback()
    bell = Breaking()
    world.feeder._notifier = bell  # type: ignore[assignment]
    assert world.feeder.tick() == 0
    world.clock.move(1)
    world.feeder.tick()
    assert bell.asked == ["evt_1", "evt_1"]


def test_abandoned_claims_come_back_a_bounded_number_a_tick(world: World) -> None:
    ids = [f"evt_{number}" for number in range(600)]
    at = world.clock.now() - 61
    world.add_callbacks(ids, status="delivering", claimed_at=at, claimed_by="gone", tries=1)
    fresh = world.add_callback("evt_fresh", status="delivering", claimed_at=world.clock.now() - 59, tries=1)
    assert world.feeder.tick() == 500
    assert world.feeder.tick() == 100
    assert world.callback(fresh).status == "delivering"


def test_a_tick_costs_the_same_whatever_waits(world: World) -> None:
    """Counted in statements: the work may not grow with the rows that are not due."""
    counts = []
    for rows in (0, 300):
        ids = [f"evt_{number}" for number in range(rows)]
        if ids:
            hosts = [f"h{number % 20}:1" for number in range(rows)]
            world.add_callbacks(ids, host=hosts, ring_at=world.clock.now() + 999)
        statements: list[str] = []
        engine = world.database._readers

        def count(conn, cursor, statement, *rest, statements=statements):  # type: ignore[no-untyped-def]
            statements.append(statement)

        event.listen(engine, "before_cursor_execute", count)
        world.feeder.tick()
        event.remove(engine, "before_cursor_execute", count)
        counts.append(len(statements))
    assert counts[0] == counts[1]


def test_a_lost_message_is_rung_again_even_when_another_tick_moved_on(world: World) -> None:
    world.add_callback()
    world.feeder.tick()
    world.bell.take()  # FLUSHALL
    world.clock.move(31)
    world.feeder.tick()
    assert world.bell.take() == ["evt_1"]


def test_a_replayed_dead_letter_is_rung_without_a_bell(world: World) -> None:
    world.add_callback(status="failed", finished_at=world.clock.now(), ring_at=world.clock.now() + 86400)
    world.bell.silent = True
    assert world.dead.replay("alice", "evt_1")
    world.bell.silent = False
    world.feeder.tick()
    assert world.bell.take() == ["evt_1"]


def test_rows_written_by_others_are_due_at_once(world: World) -> None:
    """Whoever ends a task knows nothing of hosts and bells: the columns' defaults must do."""
    world.add_callback()
    row = world.callback()
    assert (row.host, row.ring_at, row.tries_before) == ("", 0.0, 0)
    world.database.write(lambda c: c.execute(update(callback).values(next_at=world.clock.now())))
    world.feeder.tick()
    assert world.bell.take() == ["evt_1"]
