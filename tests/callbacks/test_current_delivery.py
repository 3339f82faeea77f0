"""Reloads leave one delivery behind, and no socket of an older one."""

from __future__ import annotations

import threading

import pytest

from app.callbacks.deliver_callback import CurrentDelivery
from app.callbacks.domain.callback import DeliveryReply, SignedCallback
from tests.callbacks.world import World
from tests.stack import PATIENCE

URL = "https://receiver.example/hook"


class Courier:
    """Sends, when it may; knows whether it was closed, and whether somebody sent over it afterwards."""

    def __init__(self) -> None:
        self.sent = 0
        self.closed = 0
        self.late = False
        self.begun = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()

    def send(self, _parcel: SignedCallback) -> DeliveryReply:
        self.begun.set()
        assert self.may_answer.wait(PATIENCE)
        self.late |= bool(self.closed)
        self.sent += 1
        return DeliveryReply(200)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def told(world: World) -> World:
    world.add_task()
    return world


def test_each_reload_closes_what_the_one_before_kept_open(told: World) -> None:
    couriers = [Courier() for _ in range(4)]
    current = CurrentDelivery(lambda: told.another_process(couriers[0]))
    for number, courier in enumerate(couriers):
        if number:
            current.replace(lambda courier=courier: told.another_process(courier))
        current.deliver(told.add_callback(f"evt_{number}", URL))
    assert [courier.sent for courier in couriers] == [1, 1, 1, 1]
    assert [courier.closed for courier in couriers] == [1, 1, 1, 0]


def test_what_is_in_the_air_ends_before_its_connections_are_closed(told: World) -> None:
    old, new = Courier(), Courier()
    old.may_answer.clear()
    current = CurrentDelivery(lambda: told.another_process(old))
    first = told.add_callback("evt_1", URL)
    thread = threading.Thread(target=current.deliver, args=(first,))
    thread.start()
    assert old.begun.wait(PATIENCE)
    current.replace(lambda: told.another_process(new))
    current.deliver(told.add_callback("evt_2", URL))
    assert (new.sent, old.closed) == (1, 0)
    old.may_answer.set()
    thread.join(PATIENCE)
    assert (old.sent, old.closed, old.late, new.closed) == (1, 1, False, 0)


def test_reloads_without_callbacks_make_nothing(told: World) -> None:
    made: list[Courier] = []

    def make() -> object:
        made.append(Courier())
        return told.another_process(made[-1])

    current = CurrentDelivery(make)  # type: ignore[arg-type]
    for _ in range(3):
        current.replace(make)  # type: ignore[arg-type]
    current.stop()
    assert made == []
