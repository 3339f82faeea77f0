"""Who leads, follows, lifts and takes over among identical tasks in flight."""

from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.caching.domain.coalescing import Joined, Joining, Participant, join, join_all, successor

LEADER = Participant("task_1", 1, "alice", step=3, expires_at=1000.0)
parties = st.lists(
    st.builds(
        Participant,
        st.just(""),
        st.just(0),
        st.sampled_from(["alice", "bob"]),
        st.sampled_from([0, 3, 6]),
        st.sampled_from([500.0, 1000.0, 2000.0]),
    ),
    min_size=1,
    max_size=12,
).map(lambda found: [replace(party, task_id=f"task_{n}", seq=n) for n, party in zip(count(2), found)])


@pytest.mark.parametrize(
    ("changes", "how"),
    [
        ({}, Joining.FOLLOW),
        ({"step": 0}, Joining.REPLACE),
        ({"step": 6}, Joining.FOLLOW),
        ({"expires_at": 900.0}, Joining.HURRY),
        ({"expires_at": 1100.0}, Joining.FOLLOW),
        ({"expires_at": 900.0, "client_id": "bob"}, Joining.FOLLOW),
        ({"step": 0, "client_id": "bob"}, Joining.REPLACE),
        ({"step": 6, "expires_at": 900.0}, Joining.HURRY),
    ],
)
def test_a_higher_priority_or_a_nearer_deadline_lifts_the_call(
    changes: dict[str, object], how: Joining
) -> None:
    newcomer = replace(LEADER, task_id="task_2", **changes)  # type: ignore[arg-type]
    assert join(newcomer, LEADER) is how


def test_nothing_lifts_a_call_under_way() -> None:
    running = replace(LEADER, running=True)
    assert join(replace(LEADER, step=0, expires_at=1.0), running) is Joining.FOLLOW


def test_the_first_leads() -> None:
    assert join(LEADER, None) is Joining.LEAD
    assert join_all([LEADER], None) == Joined(LEADER, ())


@given(parties, st.none() | st.just(LEADER) | st.just(replace(LEADER, running=True)))
def test_one_leads_and_everybody_else_follows(
    newcomers: list[Participant], leader: Participant | None
) -> None:
    joined = join_all(newcomers, leader)
    everybody = {party.task_id for party in newcomers} | ({leader.task_id} if leader else set())
    followers = [party.task_id for party in joined.followers]
    assert len(followers) == len(set(followers))
    assert joined.leader.task_id not in followers
    standing = {joined.leader.task_id, *followers} | ({joined.replaced.task_id} if joined.replaced else set())
    assert standing == everybody


@given(parties, st.none() | st.just(LEADER))
def test_the_call_has_the_highest_priority_of_all_who_wait_for_it(
    newcomers: list[Participant], leader: Participant | None
) -> None:
    joined = join_all(newcomers, leader)
    assert joined.leader.step == min(party.step for party in [*newcomers, *([leader] if leader else [])])


@given(parties)
def test_only_a_leader_that_stays_is_hurried(newcomers: list[Participant]) -> None:
    joined = join_all(newcomers, LEADER)
    assert not (joined.hurried and joined.replaced)
    nearer = any(p.client_id == "alice" and p.expires_at < LEADER.expires_at for p in newcomers)
    assert joined.hurried <= nearer


def test_a_call_under_way_stays_as_it_is() -> None:
    running = replace(LEADER, running=True)
    joined = join_all([replace(LEADER, task_id="x", step=0, expires_at=1.0)], running)
    assert (joined.leader, joined.replaced, joined.hurried) == (running, None, False)


def test_the_most_urgent_follower_takes_over() -> None:
    late, early = replace(LEADER, task_id="late", seq=9), replace(LEADER, task_id="early", seq=3)
    near = replace(LEADER, task_id="near", seq=10, expires_at=5.0)
    high = replace(LEADER, task_id="high", seq=11, step=0)
    assert successor([late, early, near, high]) == high
    assert successor([late, early, near]) == near
    assert successor([late, early]) == early
    assert successor([]) is None
