"""One upstream call for identical tasks in flight: who leads, who follows, who takes over, who lifts the call.

Of all tasks in flight with one cache key at most one leads: it alone is queued and called. The others follow: they
wait for its answer and end with it, each under its own id. They share a scope, hence a client or a client's consent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum


@dataclass(frozen=True, slots=True)
class Participant:
    """A task that takes part. Smaller `step` is the higher priority; `expires_at` is in Unix seconds."""

    task_id: str
    seq: int
    client_id: str
    step: int
    expires_at: float
    running: bool = False  # its call is under way: nothing can lift it any more


class Joining(Enum):
    """What becomes of a newcomer."""

    LEAD = "lead"  # nobody leads yet
    FOLLOW = "follow"
    REPLACE = "replace"  # its priority is higher: it leads from now on, and who led follows it
    HURRY = "hurry"  # it follows, and the leader goes to the front of its queue


def join(newcomer: Participant, leader: Participant | None) -> Joining:
    """Say how a newcomer joins.

    A higher priority replaces the leader, so that the call is queued, and charged, as the newcomer's own. A nearer
    deadline sends the leader to the front of its queue; only within one client, since it is that client's other
    tasks that it passes.
    """
    if leader is None:
        return Joining.LEAD
    if leader.running:
        return Joining.FOLLOW
    if newcomer.step < leader.step:
        return Joining.REPLACE
    if newcomer.expires_at < leader.expires_at and newcomer.client_id == leader.client_id:
        return Joining.HURRY
    return Joining.FOLLOW


@dataclass(frozen=True, slots=True)
class Joined:
    """One key after newcomers have joined: who leads, who has to hurry, and who led before and follows now."""

    leader: Participant
    followers: tuple[Participant, ...]  # newcomers alone
    replaced: Participant | None = None  # it led when this began
    hurried: bool = False  # the leader, which led when this began, goes to the front


def join_all(newcomers: Sequence[Participant], leader: Participant | None) -> Joined:
    """Let newcomers (at least one) join one after the other."""
    state: Joined | None = None if leader is None else Joined(leader, ())
    for newcomer in newcomers:
        state = _joined(state, newcomer, leader)
    assert state is not None  # noqa: S101
    return state


def _joined(state: Joined | None, newcomer: Participant, first: Participant | None) -> Joined:
    if state is None:
        return Joined(newcomer, ())
    how = join(newcomer, state.leader)
    if how is Joining.REPLACE:
        if state.leader is first:
            return replace(state, leader=newcomer, replaced=first, hurried=False)
        return replace(state, leader=newcomer, followers=(*state.followers, state.leader))
    hurried = state.hurried or (how is Joining.HURRY and state.leader is first)
    return replace(state, followers=(*state.followers, newcomer), hurried=hurried)


def successor(followers: Iterable[Participant]) -> Participant | None:
    """Who takes over when the leader ended without an answer: the highest priority, nearest deadline, first come."""
    return min(followers, key=lambda one: (one.step, one.expires_at, one.seq), default=None)
