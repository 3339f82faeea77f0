"""Who is refused a place among those that wait is told when one is likely to be free."""

from app.tasks.wait import Waiters


class Hand:
    """A clock that is moved by hand."""

    at = 1000.0

    def __call__(self) -> float:
        return self.at


def leave(waiters: Waiters, hand: Hand, count: int, each: float) -> None:
    for number in range(count):
        with waiters.enter(f"task_{number}") as event:
            assert event is not None
            hand.at += each


def test_the_refused_are_told_one_after_the_other_at_the_pace_at_which_places_become_free() -> None:
    hand = Hand()
    waiters = Waiters(5, hand)
    leave(waiters, hand, 20, each=0.5)
    told = [waiters.next_place() for _ in range(40)]
    assert told == sorted(told)
    assert told[0] == 1.0
    assert 17 < told[-1] < 21  # forty places at two a second
    hand.at += 15.0
    assert waiters.next_place() < 7  # most of those have come by then


def test_a_promise_is_one_that_clients_heed() -> None:
    hand = Hand()
    waiters = Waiters(5, hand)
    told = [waiters.next_place() for _ in range(1000)]
    assert (told[0], max(told)) == (1.0, 100.0)
    hand.at += 500.0
    assert waiters.next_place() == 1.0


def test_what_was_long_ago_does_not_count() -> None:
    hand = Hand()
    waiters = Waiters(5, hand)
    leave(waiters, hand, 5, each=30.0)
    hand.at += 61.0
    assert waiters.next_place() == 1.0
