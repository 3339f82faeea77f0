"""Keys that an upstream refuses, on a virtual clock."""

from __future__ import annotations

import pytest

from app.domain.key_health import (
    Condition,
    Finding,
    HealthRules,
    Held,
    KeyHealth,
    Order,
    Probe,
    Probed,
    Standing,
    from_facts,
    to_facts,
)
from app.domain.outcome import Outcome
from app.domain.refusals import HeardCall

RULES = HealthRules(retest=30, longest=100, idle=300)
KEYS = {name: Held(name, "up", "acme") for name in ("k1", "k2")}
OTHER = {"k3": Held("k3", "other", "bee")}


def health(**keys: Held) -> KeyHealth:
    return KeyHealth(keys or KEYS, RULES)


def answer(finding: Finding, at: float) -> Probed:
    return Probed(finding, at, 0.1, 200 if finding is Finding.WORKS else 401)


def call(
    key: str, outcome: Outcome, at: float, sent_at: float, client: str = "a", task: str = "t"
) -> HeardCall:
    return HeardCall(outcome, client, task, key, "acme" if key in KEYS else "bee", "m", sent_at, at)


def refuse(found: KeyHealth, key: str, outcome: Outcome, at: float, sent_at: float) -> bool:
    """Refused to three requests of two clients, with no success between them."""
    calls = [call(key, outcome, at, sent_at, client, f"{client}{at}") for client in ("a", "b", "a2")]
    changed = [found.heard(one) for one in calls]
    return all(changed)


def disabled() -> KeyHealth:
    found = health()
    assert refuse(found, "k1", Outcome.UNAUTHORIZED, 1000.0, 999.0)
    return found


@pytest.mark.parametrize(
    ("outcome", "test", "status"),
    [(Outcome.UNAUTHORIZED, Probe.MODELS, 401), (Outcome.NO_BALANCE, Probe.BALANCE, 200)],
)
def test_one_refused_request_closes_nothing_but_has_its_key_tested_at_once(
    outcome: Outcome, test: Probe, status: int
) -> None:
    found = health()
    found.heard(call("k1", outcome, 1000.0, 999.0))
    assert found.shut == {}
    (order,) = found.due(1000.0)
    assert order.test is test
    assert found.due(1001.0) == []
    assert found.tested(order, Probed(Finding.REFUSED, 1001.0, 0.1, status))
    assert "k1" in found.shut


def test_a_balance_page_that_refuses_the_key_tells_nothing_of_money() -> None:
    found = health()
    found.heard(call("k1", Outcome.NO_BALANCE, 1000.0, 999.0))
    (order,) = found.due(1000.0)
    assert not found.tested(order, Probed(Finding.REFUSED, 1001.0, 0.1, 403))
    assert found.shut == {}


def test_where_no_test_tells_anything_one_clients_requests_must_do() -> None:
    found = health()
    for number in range(9):
        found.heard(call("k1", Outcome.UNAUTHORIZED, 1000.0 + number, 999.0 + number, task=str(number)))
        for order in found.due(1000.0 + number):
            assert not found.tested(order, Probed(Finding.NOT_OFFERED, 1000.0 + number, 0.1, 404))
    assert set(found.shut) == {"k1"}


def test_a_401_disables_the_key_alone_and_a_402_every_key_of_the_account() -> None:
    found = disabled()
    assert set(found.shut) == {"k1"}
    assert "key k1 is disabled" in found.shut["k1"].words
    refuse(found, "k2", Outcome.NO_BALANCE, 1001.0, 1000.0)
    assert set(found.shut) == {"k1", "k2"}
    assert "account acme has no balance" in found.shut["k2"].words


@pytest.mark.parametrize(
    "outcome", [o for o in Outcome if o not in (Outcome.UNAUTHORIZED, Outcome.NO_BALANCE)]
)
def test_no_other_outcome_closes_a_key(outcome: Outcome) -> None:
    found = health()
    refuse(found, "k1", outcome, 1000.0, 999.0)
    assert found.shut == {}


def test_a_disabled_key_is_tested_ever_more_seldom_and_returns_when_it_works() -> None:
    found = disabled()
    at, gaps = 1000.0, []
    for _ in range(5):
        last = at
        while not (orders := [o for o in found.due(at) if o.subject == "key:k1"]):
            at += 1
        assert orders == [Order("key:k1", Probe.MODELS, "k1")]
        gaps.append(at - last)
        assert not found.tested(orders[0], answer(Finding.REFUSED, at))
        assert "k1" in found.shut
    assert gaps == [30, 60, 100, 100, 100]
    assert found.tested(Order("key:k1", Probe.MODELS, "k1"), answer(Finding.WORKS, at + 100))
    assert found.shut == {}


def test_an_upstream_that_does_not_answer_settles_nothing() -> None:
    found = disabled()
    order = found.due(1030.0)[0]
    assert not found.tested(order, Probed(Finding.NO_ANSWER, 1030.0, 10.0))
    assert "k1" in found.shut


def test_what_was_sent_before_the_key_came_back_says_nothing_of_now() -> None:
    found = disabled()
    found.tested(Order("key:k1", Probe.MODELS, "k1"), answer(Finding.WORKS, 1050.0))
    assert not refuse(found, "k1", Outcome.UNAUTHORIZED, 1051.0, 1049.0)
    assert found.shut == {}
    assert refuse(found, "k1", Outcome.UNAUTHORIZED, 1053.0, 1052.0)
    assert set(found.shut) == {"k1"}


def test_an_account_watches_its_balance() -> None:
    found = health()
    refuse(found, "k2", Outcome.NO_BALANCE, 1000.0, 999.0)
    order = found.due(1030.0)[0]
    assert order == Order("account:acme", Probe.BALANCE, "k1")
    assert not found.tested(order, Probed(Finding.REFUSED, 1030.0, 0.1, 200))
    assert found.due(1040.0) == []
    assert found.tested(order, Probed(Finding.WORKS, 1090.0, 0.1, 200))
    assert found.shut == {}


def test_where_there_is_no_such_page_a_call_tries_and_the_pause_still_grows() -> None:
    found, at = health(), 1000.0
    for pause in (30, 60, 100):
        refuse(found, "k1", Outcome.NO_BALANCE, at, at)
        assert found.due(at + pause - 1) == []
        order = found.due(at + pause)[0]
        assert found.tested(order, Probed(Finding.NOT_OFFERED, at + pause, 0.1, 404))
        assert found.shut == {}
        at += pause + 1
    found.heard(call("k1", Outcome.SUCCEEDED, at, at))
    refuse(found, "k1", Outcome.NO_BALANCE, at + 1, at + 1)
    assert found.due(at + 31)[0].test is Probe.BALANCE


def test_an_idle_endpoint_is_probed_once_in_a_while() -> None:
    found = health(**KEYS, **OTHER)
    assert found.due(1000.0) == []
    found.heard(call("k2", Outcome.SUCCEEDED, 1200.0, 1199.0))
    assert [order.key for order in found.due(1300.0)] == ["k3"]
    found.tested(Order("key:k3", Probe.MODELS, "k3"), answer(Finding.WORKS, 1300.0))
    assert found.due(1301.0) == []
    assert [order.key for order in found.due(1500.0)] == ["k2"]


def test_a_probe_that_is_refused_disables_the_key_before_a_task_meets_it() -> None:
    found = health()
    assert found.tested(Order("key:k1", Probe.MODELS, "k1"), answer(Finding.REFUSED, 1000.0))
    assert set(found.shut) == {"k1"}


def test_without_an_idle_time_nothing_is_probed() -> None:
    found = KeyHealth(KEYS, HealthRules(idle=0))
    assert found.due(0.0) == []
    assert found.due(1e9) == []


def test_an_operator_gives_a_key_back() -> None:
    found = disabled()
    refuse(found, "k1", Outcome.NO_BALANCE, 1001.0, 1000.0)
    assert found.give_back("k1", 1002.0)
    assert found.shut == {}
    assert not found.give_back("k1", 1003.0)


def test_a_key_that_is_configured_no_more_is_not_tested() -> None:
    found = disabled()
    found.keys = {"k2": KEYS["k2"]}
    assert [order.key for order in found.due(1030.0)] == []
    assert found.shut == {}


def test_a_standing_survives_being_written_down() -> None:
    found = disabled()
    found.tested(found.due(1030.0)[0], answer(Finding.REFUSED, 1030.0))
    standing = found.standings["key:k1"]
    assert standing.condition is Condition.DISABLED
    assert from_facts(to_facts(standing)) == standing
    assert from_facts(to_facts(Standing())) == Standing()
