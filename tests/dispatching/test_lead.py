"""Who leads: whoever finds the seat empty, or its holder silent for two seconds on a clock of their own."""

from __future__ import annotations

from dataclasses import dataclass

from app.dispatching.leadership import SILENCE, LeaderElection


@dataclass
class Seat:
    term: str = ""
    beat: str = ""

    def leader(self) -> tuple[str, str]:
        return self.term, self.beat

    def take_lead(self, term: str, seen: str) -> bool:
        if self.term != seen:
            return False
        self.term, self.beat = term, "0"
        return True


@dataclass
class HandClock:
    at: float = 0.0

    def now(self) -> float:
        return 1e9 - self.at  # a wall clock that runs backwards must not matter

    def monotonic(self) -> float:
        return self.at


def test_an_empty_seat_is_taken_at_once() -> None:
    seat = Seat()
    assert LeaderElection(seat, HandClock()).try_lead("mine")
    assert seat.term == "mine"


def test_a_leader_that_beats_stays() -> None:
    seat, clock = Seat("theirs", "0"), HandClock()
    candidate = LeaderElection(seat, clock)
    for beat in range(20):
        seat.beat = str(beat)
        assert not candidate.try_lead("mine")
        clock.at += SILENCE / 2


def test_a_silent_leader_is_followed_after_two_seconds() -> None:
    seat, clock = Seat("theirs", "7"), HandClock()
    candidate = LeaderElection(seat, clock)
    assert not candidate.try_lead("mine")
    clock.at += SILENCE - 0.01
    assert not candidate.try_lead("mine")
    clock.at += 0.02
    assert candidate.try_lead("mine")


def test_of_two_candidates_one_wins_and_the_other_waits_for_the_winners_silence() -> None:
    seat, clock = Seat("gone", "7"), HandClock()
    alice, bob = LeaderElection(seat, clock), LeaderElection(seat, clock)
    assert not alice.try_lead("alice")
    assert not bob.try_lead("bob")
    clock.at += SILENCE
    assert alice.try_lead("alice")
    assert not bob.try_lead("bob")
    clock.at += SILENCE - 0.01
    assert not bob.try_lead("bob")
    assert seat.term == "alice"
