"""The receiver of callbacks."""

from __future__ import annotations

from tests.chaos.fault import Fault
from tests.chaos.receiver import SLOW_SECONDS, Receiver
from tests.chaos.world import ChaosWorld, pause

SECONDS = 4.0
_HOUR = 3600.0


def down_for_an_hour(world: ChaosWorld) -> None:
    """The hour passes for the callbacks: each is tried when its schedule says so, in vain."""
    receiver = _receiver(world)
    receiver.down()
    for _ in range(4):
        pause(1.0)
        world.move_callbacks(_HOUR / 4)
    pause(1.0)
    receiver.up()


def slow(world: ChaosWorld) -> None:
    receiver = _receiver(world)
    receiver.seconds = SLOW_SECONDS
    pause(2 * SECONDS)
    receiver.seconds = 0.0


def wrong_tls(world: ChaosWorld) -> None:
    """A certificate of nobody's: nothing may be sent."""
    receiver = _receiver(world)
    receiver.trusted = False
    receiver.hang_up()
    pause(1.0)
    before = receiver.requests
    pause(SECONDS)
    assert receiver.requests == before, "a callback was sent to a receiver whose certificate is not trusted"
    receiver.trusted = True


def _receiver(world: ChaosWorld) -> Receiver:
    assert world.receiver is not None
    return world.receiver


def _answering(status: int) -> Fault:
    def act(world: ChaosWorld) -> None:
        receiver = _receiver(world)
        receiver.status = status
        pause(SECONDS)
        receiver.status = 200

    words = {
        500: "answers 500",
        301: "answers 301, which is not followed",
        410: "answers 410: given up, replayed later",
    }
    return Fault(f"receiver-{status}", words[status], act)


RECEIVER_FAULTS = [
    Fault("receiver-down", "out of reach for an hour (time is moved)", down_for_an_hour),
    Fault("receiver-slow", f"answers after {SLOW_SECONDS:.0f} s", slow),
    *(_answering(status) for status in (500, 301, 410)),
    Fault("receiver-tls", "shows a certificate that nobody trusts", wrong_tls),
]
