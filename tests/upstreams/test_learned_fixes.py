"""Fixes that worked: kept in the database, shared by workers, forgotten after a week."""

from __future__ import annotations

from app.platform.database import Database
from app.platform.ports import SystemClock
from app.settings.follow_configuration import ask_secrets, asked
from app.upstreams.domain.request_parameters import ParameterFix
from app.upstreams.learned_fixes import KEPT_SECONDS, LearnedFixes
from app.upstreams.store.health import load_health

DROP, ROLE = ParameterFix("drop", "seed"), ParameterFix("role", "developer", "system")
ODD = "org/m:o|d%el"


class Clock(SystemClock):
    ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead


def test_what_one_worker_learned_all_know_and_a_restart_keeps(database: Database) -> None:
    first, other = (LearnedFixes(database, Clock(), ask_secrets) for _ in range(2))
    before = database.read(asked)
    first.learn("up", ODD, [DROP, ROLE])
    assert first.of("up", ODD) == (DROP, ROLE)
    assert database.read(asked)[1] == before[1] + 1  # the others are told to look
    assert other.of("up", ODD) == ()
    other.refresh()
    assert set(other.of("up", ODD)) == {DROP, ROLE}
    assert (other.of("up", "another"), other.of("another", ODD)) == ((), ())
    assert database.read(load_health) == {}


def test_what_is_known_is_not_stored_again(database: Database) -> None:
    fixes = LearnedFixes(database, Clock(), ask_secrets)
    fixes.learn("up", "m", [DROP])
    before = database.read(asked)
    fixes.learn("up", "m", [DROP])
    assert database.read(asked) == before


def test_a_fix_is_forgotten_after_a_week(database: Database) -> None:
    clock = Clock()
    fixes = LearnedFixes(database, clock, ask_secrets)
    fixes.learn("up", "m", [DROP])
    clock.ahead = KEPT_SECONDS + 1
    fixes.refresh()
    assert fixes.of("up", "m") == ()
