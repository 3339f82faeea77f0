"""The pool of idle connections, over connections that only know whether they are open."""

from typing import Any

import pytest

from app.platform.outgoing_connections import ConnectionPool, PooledConnection

Pool = ConnectionPool[str, Any]


class FakeConnection:
    def __init__(self) -> None:
        self.sock: object | None = object()

    @property
    def is_connected(self) -> bool:
        return self.sock is not None

    def close(self) -> None:
        self.sock = None


class World:
    def __init__(self, **limits: Any) -> None:
        self.at = 0.0
        self.pool: Pool = ConnectionPool(**{"max_idle": 2, **limits}, monotonic=lambda: self.at)

    def used(self, origin: str = "a", *, reusable: bool = True) -> PooledConnection[str, Any]:
        """A connection that was opened, used and released."""
        pooled = self.pool.open(origin, FakeConnection)
        pooled.reusable = reusable
        self.pool.release(pooled)
        return pooled


def test_the_newest_connection_of_an_origin_is_used_first() -> None:
    world = World(max_idle=3)
    older, newer, _ = world.used(), world.used(), world.used("b")
    assert world.pool.reuse("a") is newer
    assert world.pool.reuse("a") is older
    assert world.pool.reuse("a") is None
    assert world.pool.opened == 3


def test_of_too_many_the_one_idle_for_longest_is_closed() -> None:
    world = World()
    first, second, third = world.used(), world.used("b"), world.used("c")
    assert [one.connection.is_connected for one in (first, second, third)] == [False, True, True]


def test_what_is_not_reusable_is_closed_and_one_use_does_not_vouch_for_the_next() -> None:
    world = World()
    assert not world.used(reusable=False).connection.is_connected
    world.used()
    again = world.pool.reuse("a")
    assert again is not None
    world.pool.release(again)
    assert not again.connection.is_connected


@pytest.mark.parametrize(("limits", "seconds"), [({"idle_seconds": 15.0}, 15.0), ({"max_age": 600.0}, 600.0)])
def test_a_connection_is_not_used_beyond_its_time(limits: dict[str, float], seconds: float) -> None:
    world = World(**limits)
    world.used()
    world.at = seconds - 1
    pooled = world.pool.reuse("a")
    assert pooled is not None
    pooled.reusable = True
    world.pool.release(pooled)
    world.at += seconds
    assert world.pool.reuse("a") is None
    assert not pooled.connection.is_connected


def test_a_closed_pool_keeps_nothing() -> None:
    world = World()
    idle, busy = world.used(), world.pool.open("a", FakeConnection)
    world.pool.close()
    assert not idle.connection.is_connected
    busy.reusable = True
    world.pool.release(busy)
    assert not busy.connection.is_connected


def test_without_room_every_connection_is_closed() -> None:
    assert not World(max_idle=0).used().connection.is_connected
