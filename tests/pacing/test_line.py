"""Where a task stands in its line, how fast that should move, and how good estimates were."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pacing.domain.backlog import QueueHead, QueuePosition, WaitingList
from app.pacing.domain.fairness import ClientShare
from app.pacing.domain.throughput import StartEstimate, capacities, expected_paces, quality
from app.settings.domain.routing import Bucket, QuotaState, Route, Topology
from app.tasks.domain.task import NOT_DUE

DUES = st.sampled_from([100.0, 200.0, NOT_DUE])
LINES = st.lists(st.tuples(DUES, st.integers(1, 10_000)), min_size=1, max_size=60, unique_by=lambda m: m[1])


@given(LINES, st.integers(1, 60), st.data())
def test_within_the_marks_the_place_is_exact_and_beyond_them_not_before_them(
    tasks: list[tuple[float, int]], known: int, data: st.DataObject
) -> None:
    ordered = sorted(tasks)
    line = QueuePosition(ordered[:known], whole=known >= len(ordered))
    mine = data.draw(st.sampled_from(ordered))
    ahead = line.ahead_of(*mine)
    if mine in ordered[:known]:
        assert ahead == ordered.index(mine)
    else:
        assert ahead >= known


@given(st.integers(2, 20), st.integers(1, 5))
def test_beyond_the_marks_a_line_is_taken_to_go_on_as_densely_as_within(others: int, known: int) -> None:
    """Every so-many-th task is this line's: positions by the common numbering would overstate as many times."""
    line = QueuePosition([(NOT_DUE, n * others) for n in range(1, 101 * known)], whole=False)
    assert line.ahead_of(NOT_DUE, 2_000 * others) == 1_999


def test_a_task_that_comes_stands_behind_all_but_those_it_precedes_by_its_deadline() -> None:
    line = QueuePosition([(50.0, 9), (70.0, 2), (NOT_DUE, 1), (NOT_DUE, 5)], whole=True, newest=9)
    assert line.ahead_of_new(NOT_DUE) == 4
    assert line.ahead_of_new(60.0) == 1
    assert QueuePosition().ahead_of_new(NOT_DUE) == 0


def _waiting(client: str, step: int = 3, model: str = "m") -> WaitingList:
    return WaitingList(f"backlog.{model}.{client}", model, client, step, 9, (QueueHead("t", 100.0),))


TOPOLOGY = Topology({"m": ((Route("k1", "u", "a", "m"), Route("k2", "u", "a", "m")),)})
TEN = {"account:a:m": QuotaState(Bucket(1, 10.0))}


def test_what_the_limits_let_pass_is_shared_by_weight_and_priority() -> None:
    waiting = [_waiting("alice"), _waiting("bob", 3), _waiting("bob", 6)]
    paces = expected_paces(waiting, TOPOLOGY, TEN, {"alice": ClientShare(3.0)}, {})
    assert paces["backlog.m.alice", 3] == pytest.approx(7.5)
    assert paces["backlog.m.bob", 3] == pytest.approx(2.0)
    assert paces["backlog.m.bob", 6] == pytest.approx(0.5)
    assert capacities(TOPOLOGY, TEN, {}) == {"m": 10.0}


def test_the_limit_that_binds_is_taken_and_none_gives_none() -> None:
    tight = {"account:a:m": QuotaState(Bucket(1, 10.0), tokens=Bucket(1, 500.0), cap=8)}
    paces = expected_paces([_waiting("alice")], TOPOLOGY, tight, {}, {("k1", "m"): 4.0, ("k2", "m"): 4.0})
    assert paces == {("backlog.m.alice", 3): 2.0}
    assert expected_paces([_waiting("alice")], TOPOLOGY, {}, {}, {}) == {}
    assert expected_paces([_waiting("alice", model="gone")], TOPOLOGY, TEN, {}, {}) == {}


@given(
    st.lists(st.tuples(st.sampled_from(["alice", "bob", "carol"]), st.sampled_from([0, 3, 6])), unique=True),
    st.floats(0.1, 10.0),
)
def test_all_lists_together_are_expected_to_use_what_there_is(
    lists: list[tuple[str, int]], weight: float
) -> None:
    waiting = [_waiting(client, step) for client, step in lists]
    paces = expected_paces(waiting, TOPOLOGY, TEN, {"alice": ClientShare(weight)}, {})
    assert sum(paces.values()) == pytest.approx(10.0 if lists else 0.0)


def test_estimates_are_held_against_what_came() -> None:
    starts = [
        StartEstimate(100.0, 110.0, 112.0),
        StartEstimate(100.0, 100.0, 100.4),  # both under a second: right
        StartEstimate(100.0, 130.0, 110.0),
        StartEstimate(100.0, None, 105.0),
    ]
    found = quality(starts)
    assert (found.tasks, found.unestimated) == (4, 1)
    assert found.median_error_seconds == 2.0
    assert found.median_error_share == pytest.approx(0.4)
    assert found.within_twice == pytest.approx(2 / 3, abs=1e-3)
    assert quality([]).within_twice is None
