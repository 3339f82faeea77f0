"""A process is dead once its beat has not changed for long, by the time that its observer has looked."""

from app.platform.heartbeats import DEAD_SECONDS, HeartbeatMonitor


def seconds_until_dead(silence: HeartbeatMonitor, *, look_every: float) -> float:
    """How much time passes until a silent process is held to be dead."""
    at = 0.0
    while "quiet" not in silence.look({"quiet": 7, "lively": int(at * 10)}, at):
        at += look_every
    return at


def test_who_beats_lives_and_who_is_silent_for_long_does_not() -> None:
    assert seconds_until_dead(HeartbeatMonitor(), look_every=0.5) == DEAD_SECONDS


def test_while_the_observer_did_not_look_nobody_dies() -> None:
    assert seconds_until_dead(HeartbeatMonitor(), look_every=60.0) > 6 * 60


def test_silence_counts_anew_after_it_was_excused() -> None:
    silence = HeartbeatMonitor(10.0)
    for at in range(10):
        assert silence.look({"one": 1}, float(at)) == []
        assert silence.overdue == (["one"] if at >= 5 else [])
    silence.excuse()
    assert [silence.look({"one": 1}, float(at)) for at in range(10, 20)] == [[]] * 9 + [["one"]]


def test_a_beat_makes_up_for_all_silence_before_it() -> None:
    silence = HeartbeatMonitor()
    for at in range(int(DEAD_SECONDS)):
        assert silence.look({"one": 1}, float(at)) == []
    assert silence.look({"one": 2}, DEAD_SECONDS) == []
    assert silence.look({"one": 2}, DEAD_SECONDS + 2) == []
