"""Keys that an upstream refuses, on a virtual clock."""

from __future__ import annotations

import pytest

from app.tasks.domain.attempt import Outcome
from app.upstreams.domain.key_health import (
    Condition,
    HealthRules,
    Held,
    KeyHealth,
    KeyStatus,
    KeyTestResult,
    Order,
    Probe,
    Probed,
    from_facts,
    to_facts,
)
from app.upstreams.domain.refusals import HeardCall

RULES = HealthRules(retest=30, longest=100, idle=300)
KEYS = {name: Held(name, "up", "acme") for name in ("k1", "k2")}
OTHER = {"k3": Held("k3", "other", "bee")}


def health(**keys: Held) -> KeyHealth:
    return KeyHealth(keys or KEYS, RULES)


def answer(finding: KeyTestResult, at: float) -> Probed:
    return Probed(finding, at, 0.1, 200 if finding is KeyTestResult.WORKS else 401)


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
    assert found.tested(order, Probed(KeyTestResult.REFUSED, 1001.0, 0.1, status))
    assert "k1" in found.shut


def test_a_balance_page_that_refuses_the_key_tells_nothing_of_money() -> None:
    found = health()
    found.heard(call("k1", Outcome.NO_BALANCE, 1000.0, 999.0))
    (order,) = found.due(1000.0)
    assert not found.tested(order, Probed(KeyTestResult.REFUSED, 1001.0, 0.1, 403))
    assert found.shut == {}


def test_where_no_test_tells_anything_one_clients_requests_must_do() -> None:
    found = health()
    for number in range(9):
        found.heard(call("k1", Outcome.UNAUTHORIZED, 1000.0 + number, 999.0 + number, task=str(number)))
        for order in found.due(1000.0 + number):
            assert not found.tested(order, Probed(KeyTestResult.NOT_OFFERED, 1000.0 + number, 0.1, 404))
    assert found.statuses["key:k1"].condition is Condition.DISABLED
    assert {client: set(closed) for client, closed in found.barred.items()} == {"a": {"key:k1:*"}}
    assert set(found.probed) == {"key:k1:*"}
    assert found.shut == {}


def spoken(status: int, words: str, at: float, client: str = "a", task: str = "t") -> HeardCall:
    outcome = Outcome.NO_BALANCE if "balance" in words else Outcome.UNAUTHORIZED
    return HeardCall(outcome, client, task, "k1", "acme", "m", at - 0.1, at, status, words)


@pytest.mark.parametrize("finding", [KeyTestResult.WORKS, KeyTestResult.NOT_OFFERED, KeyTestResult.NO_ANSWER])
@pytest.mark.parametrize(
    ("status", "words", "subject", "condition"),
    [
        (401, "User not found.", "key:k1", Condition.DISABLED),
        (400, "API key expired. Please renew the API key.", "key:k1", Condition.DISABLED),
        (403, "Sorry, your account balance is insufficient", "account:acme", Condition.NO_BALANCE),
    ],
)
def test_two_visits_of_one_task_show_a_dead_key_in_the_upstreams_words(
    status: int, words: str, subject: str, condition: Condition, finding: KeyTestResult
) -> None:
    found = health()
    found.heard(spoken(status, words, 1000.0))
    for order in found.due(1000.1):
        found.tested(order, Probed(finding, 1000.2, 0.1, 200))
    assert subject not in found.statuses or found.statuses[subject].condition is Condition.ACTIVE
    found.heard(spoken(status, words, 1001.2))
    found_status = found.statuses[subject]
    assert found_status.condition is condition
    assert f"the upstream answered {status}: {words}" in found_status.reason
    assert set(found.barred) == {"a"}
    assert words not in next(iter(found.barred["a"].values())).words  # other clients read it too


def test_a_success_between_two_refusals_leaves_the_key_in_use() -> None:
    found = health()
    for at in (1000.0, 1002.0, 1004.0):
        found.heard(spoken(401, "User not found.", at))
        found.heard(call("k1", Outcome.SUCCEEDED, at + 1, at + 0.5, "a", "other"))
    assert found.statuses == {}


def test_another_clients_success_opens_it_to_all_and_its_refusal_closes_it_to_that_client() -> None:
    found = health()
    for at in (1000.0, 1001.2):
        found.heard(spoken(401, "Authentication Fails", at, "hostile"))
    assert set(found.barred) == {"hostile"}
    found.heard(spoken(401, "Authentication Fails", 1003.0, "b"))
    assert set(found.barred) == {"hostile", "b"}
    assert found.heard(call("k1", Outcome.SUCCEEDED, 1005.0, 1004.0, "honest"))
    assert (found.barred, found.probed, found.shut) == ({}, {}, {})
    assert found.statuses["key:k1"].condition is Condition.ACTIVE


def test_a_test_that_worked_while_calls_were_refused_proves_nothing_one_call_at_a_time_does() -> None:
    found, at, gaps = health(), 1001.2, []
    for sent in (1000.0, at):
        found.heard(spoken(401, "User not found.", sent))
    for _ in range(4):
        closed_at = at
        while not (orders := [o for o in found.due(at) if o.subject == "key:k1"]):
            assert "a" in found.barred
            at += 1
        found.tested(orders[0], answer(KeyTestResult.WORKS, at))
        assert found.statuses["key:k1"].condition is Condition.DISABLED
        assert (found.barred, found.shut, set(found.probed)) == ({}, {}, {"key:k1:*"})
        found.heard(spoken(401, "User not found.", at))
        assert set(found.barred) == {"a"}
        gaps.append(round(at - closed_at))
    assert gaps == [30, 60, 100, 100]
    found.tested(found.due(at + 101)[0], answer(KeyTestResult.WORKS, at + 101))
    found.heard(call("k1", Outcome.SUCCEEDED, at + 103, at + 102))
    assert found.statuses["key:k1"].condition is Condition.ACTIVE


def test_what_waits_for_its_one_call_does_so_for_the_next_leader_too() -> None:
    found = health()
    for at in (1000.0, 1001.2):
        found.heard(spoken(401, "User not found.", at))
    found.tested(found.due(1040.0)[0], answer(KeyTestResult.WORKS, 1040.0))
    heir = health()
    heir.statuses = {name: from_facts(to_facts(one)) for name, one in found.statuses.items()}
    assert (heir.shut, set(heir.probed)) == ({}, {"key:k1:*"})


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
        assert not found.tested(orders[0], answer(KeyTestResult.REFUSED, at))
        assert "k1" in found.shut
    assert gaps == [30, 60, 100, 100, 100]
    assert found.tested(Order("key:k1", Probe.MODELS, "k1"), answer(KeyTestResult.WORKS, at + 100))
    assert found.shut == {}


def test_an_upstream_that_does_not_answer_settles_nothing() -> None:
    found = disabled()
    order = found.due(1030.0)[0]
    assert not found.tested(order, Probed(KeyTestResult.NO_ANSWER, 1030.0, 10.0))
    assert "k1" in found.shut


def test_what_was_sent_before_the_key_came_back_says_nothing_of_now() -> None:
    found = disabled()
    found.tested(Order("key:k1", Probe.MODELS, "k1"), answer(KeyTestResult.REFUSED, 1040.0))
    found.tested(Order("key:k1", Probe.MODELS, "k1"), answer(KeyTestResult.WORKS, 1050.0))
    assert not refuse(found, "k1", Outcome.UNAUTHORIZED, 1051.0, 1049.0)
    assert found.shut == {}
    assert refuse(found, "k1", Outcome.UNAUTHORIZED, 1053.0, 1052.0)
    assert set(found.shut) == {"k1"}


def test_an_account_watches_its_balance() -> None:
    found = health()
    refuse(found, "k2", Outcome.NO_BALANCE, 1000.0, 999.0)
    order = found.due(1030.0)[0]
    assert order == Order("account:acme", Probe.BALANCE, "k1")
    assert not found.tested(order, Probed(KeyTestResult.REFUSED, 1030.0, 0.1, 200))
    assert found.due(1040.0) == []
    assert found.tested(order, Probed(KeyTestResult.WORKS, 1090.0, 0.1, 200))
    assert found.shut == {}


def test_where_there_is_no_such_page_a_call_tries_and_the_pause_still_grows() -> None:
    found, at = health(), 1000.0
    for pause in (30, 60, 100):
        refuse(found, "k1", Outcome.NO_BALANCE, at, at)
        assert found.due(at + pause - 1) == []
        order = found.due(at + pause)[0]
        assert found.tested(order, Probed(KeyTestResult.NOT_OFFERED, at + pause, 0.1, 404))
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
    found.tested(Order("key:k3", Probe.MODELS, "k3"), answer(KeyTestResult.WORKS, 1300.0))
    assert found.due(1301.0) == []
    assert [order.key for order in found.due(1500.0)] == ["k2"]


def test_a_probe_that_is_refused_disables_the_key_before_a_task_meets_it() -> None:
    found = health()
    assert found.tested(Order("key:k1", Probe.MODELS, "k1"), answer(KeyTestResult.REFUSED, 1000.0))
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
    found.tested(found.due(1030.0)[0], answer(KeyTestResult.REFUSED, 1030.0))
    status = found.statuses["key:k1"]
    assert status.condition is Condition.DISABLED
    assert from_facts(to_facts(status)) == status
    assert from_facts(to_facts(KeyStatus())) == KeyStatus()


DEAD = [None, 500, 503, 522]


def check(found: KeyHealth, at: float, status: int | None = 503) -> bool:
    """One health check of k1's upstream, with a 5xx or no answer."""
    (order,) = [one for one in found.due(at) if one.key in KEYS]
    return found.tested(order, Probed(KeyTestResult.NO_ANSWER, at, 1.0, status))


def idle() -> KeyHealth:
    found = health(**KEYS, **OTHER)
    assert found.due(1000.0) == []
    found.heard(call("k3", Outcome.SUCCEEDED, 1290.0, 1289.0))
    return found


@pytest.mark.parametrize("status", DEAD)
def test_two_failed_checks_take_an_idle_endpoint_out_with_all_its_keys(status: int | None) -> None:
    found = idle()
    assert not check(found, 1300.0, status)
    assert (found.shut, found.due(1304.0)) == ({}, [])
    assert check(found, 1305.0, status)
    assert set(found.shut) == {"k1", "k2"}
    assert found.statuses["key:k1"].condition is Condition.UNREACHABLE
    assert found.probed == {}


@pytest.mark.parametrize("finding", [KeyTestResult.WORKS, KeyTestResult.NOT_OFFERED])
def test_a_check_that_passes_brings_it_back(finding: KeyTestResult) -> None:
    found = idle()
    check(found, 1300.0)
    check(found, 1305.0)
    orders = found.due(1310.0)
    assert [order.key for order in orders] == ["k1", "k2"]
    assert found.tested(orders[0], Probed(finding, 1310.0, 0.1, 200))
    assert set(found.shut) == {"k2"}
    found.tested(orders[1], Probed(KeyTestResult.REFUSED, 1310.0, 0.1, 401))
    assert found.statuses["key:k2"].condition is Condition.DISABLED


@pytest.mark.parametrize("status", [301, 418, 429])
def test_an_answer_that_is_no_fault_takes_nothing_out(status: int) -> None:
    found = idle()
    check(found, 1300.0, status)
    assert found.due(1305.0) == []
    check(found, 1600.0, status)
    assert found.shut == {}


def test_a_call_between_two_failed_checks_clears_the_endpoint() -> None:
    found = idle()
    check(found, 1300.0)
    found.heard(call("k2", Outcome.SUCCEEDED, 1303.0, 1302.0))
    assert found.due(1310.0) == []


def test_a_closed_endpoint_is_checked_ever_more_seldom_then_tried_by_calls() -> None:
    found = idle()
    check(found, 1300.0)
    check(found, 1305.0)
    now, seen = 1305.0, []
    for _ in range(3):
        while not (orders := [one for one in found.due(now) if one.subject == "key:k1"]):
            now += 1.0
        seen.append(now)
        found.tested(orders[0], Probed(KeyTestResult.NO_ANSWER, now, 0.1, 503))
    assert seen == [1310.0, 1320.0, 1340.0]
    assert "key:k1:*" in found.probed
    assert "k1" not in found.shut
    found.heard(call("k1", Outcome.SUCCEEDED, now + 2, now + 1))
    assert found.statuses["key:k1"].condition is Condition.ACTIVE


def test_where_calls_succeed_though_checks_fail_the_checks_close_nothing_again() -> None:
    found = idle()
    check(found, 1300.0)
    check(found, 1305.0)
    for key in KEYS:
        found.heard(call(key, Outcome.SUCCEEDED, 1307.0, 1306.0))
    assert found.shut == {}
    check(found, 1700.0)
    assert [one for one in found.due(1705.0) if one.key in KEYS] == []
    assert found.shut == {}


def test_a_public_list_of_models_brings_no_key_back_and_the_pause_grows() -> None:
    found, at, pauses = disabled(), 1000.0, []
    found.tested(Order("key:k1", Probe.MODELS, "k1"), answer(KeyTestResult.REFUSED, at))
    for _ in range(5):
        at = found.statuses["key:k1"].next_test_at or at
        (order,) = [one for one in found.due(at) if one.subject == "key:k1"]
        found.tested(order, Probed(KeyTestResult.WORKS, at, 0.1, 200, proves=False))
        assert found.statuses["key:k1"].condition is Condition.DISABLED
        found.heard(
            call("k1", Outcome.UNAUTHORIZED, at + 1, at, task=f"t{at}")
        )  # the one call that may try it
        pauses.append((found.statuses["key:k1"].next_test_at or 0) - at - 1)
        at += 1
    assert pauses == sorted(pauses)
    assert (pauses[0] >= 30, pauses[-1]) == (True, RULES.longest)
