"""One upstream call for identical tasks in flight: who leads, who follows, and who takes over.

Of all tasks in flight with one cache key, at most one leads: only it is queued and called. The others follow: they
wait for its answer and end with it, each under its own id. They share a scope, hence a client or the clients' consent.
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
    running: bool = False  # its call is in progress and can no longer be moved forward


class Joining(Enum):
    """How a new task joins."""

    LEAD = "lead"  # nobody leads yet
    FOLLOW = "follow"
    REPLACE = "replace"  # its priority is higher: it leads from now on, and the former leader follows
    HURRY = "hurry"  # it follows, and the leader goes to the front of its queue


def join(newcomer: Participant, leader: Participant | None) -> Joining:
    """Decide how a new task joins.

    A higher priority replaces the leader, so that the call is queued and charged as the new task's own. A nearer
    deadline moves the leader to the front of its queue, but only within one client, whose other tasks it overtakes.
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
    """One key after new tasks have joined: who leads, whether the leader hurries, and who led before."""

    leader: Participant
    followers: tuple[Participant, ...]  # only new ones
    replaced: Participant | None = None  # the former leader, if it follows now
    hurried: bool = False  # the leader is still the former one, and moves to the front


def join_all(newcomers: Sequence[Participant], leader: Participant | None) -> Joined:
    """Let new tasks (at least one) join one after the other."""
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
    """Who takes over when the leader ended without an answer: highest priority, nearest deadline, first submitted."""
    return min(followers, key=lambda one: (one.step, one.expires_at, one.seq), default=None)
