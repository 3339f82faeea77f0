"""Whose fault refused requests are, as a table and by any sequence of calls."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.tasks.domain.attempt import Outcome
from app.upstreams.domain.key_health import HealthRules, Held, KeyHealth, KeyTestResult, Probed
from app.upstreams.domain.refusals import (
    EVERYBODY,
    FEW,
    LONGEST_REST,
    QUIET,
    REFUSALS,
    HeardCall,
    Reach,
    Refusals,
    reach,
)

NOW = 1000.0
SUBJECTS = {
    Outcome.UNAUTHORIZED: "key:k:*",
    Outcome.NO_BALANCE: "account:acme:*",
    Outcome.FORBIDDEN: "key:k:m",
    Outcome.UNKNOWN_MODEL: "key:k:m",
}


def call(outcome: Outcome, client: str = "a", task: str = "1", at: float = NOW) -> HeardCall:
    return HeardCall(outcome, client, task, "k", "acme", "m", at - 0.1, at)


@pytest.mark.parametrize(
    ("tasks", "closed_to"),
    [
        ({}, Reach.NOBODY),
        ({"a": "1"}, Reach.NOBODY),
        ({"a": "12"}, Reach.NOBODY),
        ({"a": "1", "b": "2"}, Reach.NOBODY),
        ({"a": "123"}, Reach.CLIENT),
        ({"a": "12", "b": "3"}, Reach.EVERYBODY),
        ({"a": "1", "b": "2", "c": "3"}, Reach.EVERYBODY),
        ({"a": "123", "b": "4"}, Reach.EVERYBODY),
    ],
)
def test_a_closure_takes_several_requests_and_one_for_all_several_clients(
    tasks: dict[str, str], closed_to: Reach
) -> None:
    assert reach(tasks) is closed_to


@pytest.mark.parametrize(("outcome", "subject"), SUBJECTS.items())
def test_what_is_closed_is_what_the_refusal_is_about(outcome: Outcome, subject: str) -> None:
    found = Refusals()
    for number in range(FEW):
        found.heard(call(outcome, task=str(number)))
    assert {client: set(of_client) for client, of_client in found.closed(NOW).items()} == {"a": {subject}}
    found.heard(call(outcome, "b", "9", NOW + 1))
    assert set(found.closed(NOW + 1)) == {EVERYBODY}


@pytest.mark.parametrize("outcome", SUBJECTS)
def test_the_same_request_again_and_again_closes_nothing(outcome: Outcome) -> None:
    found = Refusals()
    for number in range(1000):
        assert found.heard(call(outcome, at=NOW + number / 10)) is Reach.NOBODY


@pytest.mark.parametrize("outcome", SUBJECTS)
def test_a_closure_ends_by_itself_lasts_longer_each_time_and_ends_with_any_success(outcome: Outcome) -> None:
    found, at, lasted = Refusals(), NOW, []
    for number in range(5):
        for other in range(FEW):
            found.heard(call(outcome, task=f"{number}.{other}", at=at))
        began = at
        while found.closed(at):
            at += 1
        lasted.append(at - began)
    assert lasted == [10, 20, 40, 60, LONGEST_REST]
    found.heard(call(outcome, task="x", at=at))
    assert found.closed(at)
    found.heard(call(Outcome.SUCCEEDED, "b", "y", at + 1))
    assert found.closed(at + 1) == {}


def test_a_success_that_was_sent_before_the_first_refusal_says_nothing_of_now() -> None:
    found = Refusals()
    for number in range(FEW):
        found.heard(call(Outcome.UNAUTHORIZED, task=str(number)))
    slow = HeardCall(Outcome.SUCCEEDED, "b", "9", "k", "acme", "m", NOW - 60, NOW + 1)
    found.heard(slow)
    assert found.closed(NOW + 1)


def test_a_route_that_served_somebody_just_now_is_not_judged_by_a_few_refused_contents() -> None:
    found = Refusals()
    found.heard(call(Outcome.SUCCEEDED, "c", at=NOW - 1))
    for client in "abab":
        assert found.heard(call(Outcome.FORBIDDEN, client, client)) is Reach.NOBODY
    assert found.heard(call(Outcome.FORBIDDEN, "a", "2", NOW + QUIET)) is Reach.EVERYBODY


def test_refusals_that_lie_far_apart_are_not_counted_together() -> None:
    found = Refusals()
    for hour in range(10):
        assert (
            found.heard(call(Outcome.FORBIDDEN, "ab"[hour % 2], str(hour), NOW + 3600 * hour)) is Reach.NOBODY
        )


REFUSED = st.tuples(st.just("hostile"), st.sampled_from(sorted(REFUSALS)), st.integers(0, 9))
SERVED = st.tuples(st.just("honest"), st.just(Outcome.SUCCEEDED), st.integers(0, 9))
OF_NO_USE = st.tuples(
    st.just("honest"), st.sampled_from((Outcome.RATE_LIMITED, Outcome.UNAVAILABLE)), st.integers(0, 9)
)
FINDINGS = st.sampled_from((KeyTestResult.WORKS, KeyTestResult.NOT_OFFERED, KeyTestResult.NO_ANSWER))


@given(
    st.lists(st.tuples(st.one_of(REFUSED, REFUSED, SERVED, OF_NO_USE), st.floats(0.001, 300)), max_size=80),
    FINDINGS,
)
def test_no_sequence_of_one_clients_refused_requests_closes_anything_to_one_whose_calls_succeed(
    steps: list[tuple[tuple[str, Outcome, int], float]], finding: KeyTestResult
) -> None:
    """Whatever a test of the key says, as long as it does not say that the key is dead."""
    health = KeyHealth({"k": Held("k", "up", "acme")}, HealthRules(idle=0))
    at = NOW
    health.heard(call(Outcome.SUCCEEDED, "honest", "first", at))
    last = at
    for (client, outcome, task), pause in steps:
        at += pause
        if at - last > 3000:
            health.heard(call(Outcome.SUCCEEDED, "honest", "steady", at))
            last = at
        health.heard(call(Outcome(outcome), client, str(task), at))
        last = at if outcome is Outcome.SUCCEEDED else last
        for order in health.due(at):
            health.tested(order, Probed(finding, at, 0.1, 200 if finding is KeyTestResult.WORKS else 404))
        closed = health.refusals.closed(at)
        assert health.shut == {}
        assert "honest" not in health.barred
        assert EVERYBODY not in closed
        assert "honest" not in closed


@given(st.lists(st.sampled_from("abc"), min_size=FEW, max_size=30), st.sampled_from(sorted(REFUSALS)))
def test_what_refuses_every_request_is_found_within_a_few_whoever_sends_them(
    clients: list[str], outcome: Outcome
) -> None:
    found = Refusals()
    for number, client in enumerate(clients):
        found.heard(call(Outcome(outcome), client, str(number), NOW + number))
    counts = [clients.count(client) for client in set(clients)]
    if len(counts) > 1:
        assert set(found.closed(NOW + len(clients) - 1)) == {EVERYBODY}
    else:
        assert set(found.closed(NOW + FEW)) == set(clients)


@given(st.lists(st.sampled_from(sorted(SUBJECTS)), min_size=1, max_size=200), st.floats(0.01, 5))
def test_a_flood_of_refused_requests_is_no_flood_of_tests(outcomes: list[str], pause: float) -> None:
    health = KeyHealth({"k": Held("k", "up", "acme")}, HealthRules(idle=0))
    tests, at = 0, NOW
    for number, outcome in enumerate(outcomes):
        at += pause
        health.heard(call(Outcome(outcome), "hostile", str(number), at))
        for order in health.due(at):
            tests += 1
            health.tested(order, Probed(KeyTestResult.WORKS, at, 0.1, 200))
    assert tests <= 3 * (1 + (at - NOW) / 30)
    assert health.shut == {}  # closed at most to the one that sends them
    assert set(health.barred) <= {"hostile"}
