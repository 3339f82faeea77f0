"""When a refusal is the request's own fault."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.execution.domain.retry import (
    LONGEST_WAIT,
    KeyRefusals,
    RetryContext,
    RetryPolicy,
    decide,
    is_request_at_fault,
    refusal_note,
    remembered_refusals,
)
from app.tasks.domain.attempt import AttemptEnd, Outcome
from app.tasks.domain.task import Status
from app.upstreams.domain.classify import CallVerdict
from tests.attempts import NOW, a_claimed, a_permit

CREDENTIALS = (Outcome.UNAUTHORIZED, Outcome.NO_BALANCE)
GONE = "the upstream's words"
K1, K2 = KeyRefusals("k1", "acme", 1, 0, NOW), KeyRefusals("k2", "acme", 1, 0, NOW)
K3 = KeyRefusals("k3", "bee", 1, 0, NOW)
ONCE, TWICE = replace(K1, disproved=1), replace(K1, disproved=2)


@pytest.mark.parametrize(
    ("outcome", "visits", "keys", "fault"),
    [
        (Outcome.FORBIDDEN, [K1], {"k1"}, False),
        (Outcome.FORBIDDEN, [K1], {"k1", "k2"}, False),
        (Outcome.FORBIDDEN, [K1, K2], {"k1", "k2"}, True),
        (Outcome.FORBIDDEN, [K1, K2], {"k1", "k2", "k3"}, False),
        (Outcome.FORBIDDEN, [K1, K3], {"k1", "k2", "k3"}, True),
        (Outcome.FORBIDDEN, [ONCE], {"k1"}, True),
        (Outcome.FORBIDDEN, [replace(K1, tested=True)], {"k1"}, True),
        (Outcome.UNKNOWN_MODEL, [K1], {"k1"}, True),
        (Outcome.UNKNOWN_MODEL, [K1, K3], {"k1", "k2", "k3"}, False),
        (Outcome.UNKNOWN_MODEL, [K1, K2, K3], {"k1", "k2", "k3"}, True),
        (Outcome.UNAUTHORIZED, [K1, K2, K3], {"k1", "k2", "k3"}, False),
        (Outcome.UNAUTHORIZED, [replace(K1, tested=True, count=9)], {"k1"}, False),
        (Outcome.UNAUTHORIZED, [ONCE, K3], {"k1", "k3"}, False),
        (Outcome.UNAUTHORIZED, [TWICE], {"k1"}, True),
        (Outcome.NO_BALANCE, [ONCE, replace(K3, disproved=1)], {"k1", "k3"}, True),
        (Outcome.NO_BALANCE, [K1, K3], {"k1", "k3"}, False),
    ],
)
def test_whose_fault_it_is(outcome: Outcome, visits: list[KeyRefusals], keys: set[str], fault: bool) -> None:
    assert is_request_at_fault(outcome, visits, keys) is fault


def refused(
    outcome: Outcome,
    avoid: tuple[str, ...] = (),
    *,
    key: str = "k1",
    account: str = "",
    keys: tuple[str, ...] = ("k1", "k2"),
    at: float = NOW,
    proved_at: float = 0.0,
) -> AttemptEnd:
    permit = a_permit(key=key, account=account or key, released_at=at, proved_at=proved_at)
    claimed = a_claimed(permit, avoid=avoid)
    return decide(claimed, CallVerdict(outcome, GONE), RetryContext(RetryPolicy(), keys, NOW, 0.5))


def test_a_403_of_a_second_key_fails_with_the_upstreams_words_and_counts() -> None:
    first = refused(Outcome.FORBIDDEN)
    assert (first.status, first.available_at) == (Status.QUEUED, NOW)
    second = refused(Outcome.FORBIDDEN, first.avoid, key="k2")
    assert second.status is Status.FAILED
    assert second.counts
    assert second.failure is not None
    assert (second.failure.code, second.failure.message) == ("request_forbidden", GONE)


@pytest.mark.parametrize("outcome", CREDENTIALS)
def test_keys_that_are_all_dead_fail_no_task_however_often_it_asks(outcome: Outcome) -> None:
    avoid: tuple[str, ...] = ()
    for number in range(50):
        end = refused(outcome, avoid, key=f"k{number % 2 + 1}", at=NOW + number)
        assert end.status is Status.QUEUED
        assert not end.counts
        avoid = end.avoid
    assert len(avoid) == 4


def test_a_single_key_is_met_ever_more_seldom() -> None:
    avoid: tuple[str, ...] = ()
    waits = []
    for number in range(8):
        end = refused(Outcome.UNAUTHORIZED, avoid, keys=("k1",), at=NOW + number)
        assert end.available_at is not None
        waits.append(end.available_at - NOW)
        avoid = end.avoid
    assert waits == [1, 2, 4, 8, 16, 32, 60, LONGEST_WAIT]


@pytest.mark.parametrize("outcome", [*CREDENTIALS, Outcome.FORBIDDEN])
def test_successes_of_others_with_the_key_between_its_visits_leave_the_fault_with_the_request(
    outcome: Outcome,
) -> None:
    avoid: tuple[str, ...] = ()
    calls = 0
    while (
        end := refused(outcome, avoid, keys=("k1",), at=NOW + calls, proved_at=NOW + calls - 0.5)
    ) is not None:
        calls += 1
        if end.status is not Status.QUEUED:
            break
        avoid = end.avoid
    assert end.status is Status.FAILED
    assert calls == (2 if outcome is Outcome.FORBIDDEN else 3)


@pytest.mark.parametrize("outcome", [*CREDENTIALS, Outcome.UNKNOWN_MODEL])
def test_a_key_that_is_met_again_while_another_is_closed_is_not_met_in_a_loop(outcome: Outcome) -> None:
    first = refused(outcome)
    again = refused(outcome, first.avoid)
    assert (first.available_at, again.available_at) == (NOW, NOW + 2)


@given(st.text(), st.text(), st.integers(1, 99), st.integers(0, 99), st.floats(0, 1e10))
def test_a_visit_is_remembered_whatever_keys_are_called(
    key: str, account: str, visits: int, disproved: int, at: float
) -> None:
    visit = KeyRefusals(key, account, visits, disproved, round(at, 3))
    note = refusal_note(visit)
    assert not set(note) & {",", "|"}  # what parts notes, and places
    assert remembered_refusals(["k9", "unknown:k2", "refused:rubbish", note]) == {key: visit}
