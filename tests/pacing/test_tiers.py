"""Tiers with conditions, tiers for failures, and how calls are spread inside a tier."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pacing.domain.fairness import Shares
from app.pacing.domain.plan import Plan, QueueHead, Snapshot, WaitingList, plan, settle_shares
from app.pacing.domain.route_availability import keyless_models
from app.settings.domain.routing import Balance, BalancingPolicy, Bucket, QuotaState, Route, Topology
from app.tasks.domain.eligibility import (
    FOREVER,
    TierFacts,
    TierRule,
    condition_id,
    may_use,
    read_facts,
    upstream_note,
    write_facts,
)
from app.tasks.domain.pauses import Suspension, Suspensions

NOW = 1_000.0
SHORT, LATE = condition_id("prompt_tokens < 500"), condition_id("queue_wait > 60")


def route(key: str, *, upstream: str = "u", weight: float = 1.0) -> Route:
    return Route(key, upstream, key, "m", weight)


def heads(*facts: QueueHead) -> WaitingList:
    return WaitingList("backlog.m.alice", "m", "alice", 3, len(facts), facts)


def head(
    name: str, *, since: float = NOW, avoid: tuple[str, ...] = (), **conditions: tuple[float, float]
) -> QueueHead:
    ids = {"short": SHORT, "late": LATE}
    facts = write_facts(TierFacts(since, {ids[key]: (span,) for key, span in conditions.items()}))
    return QueueHead(name, 10, avoid, facts)


def planned(
    topology: Topology, *lists: WaitingList, quotas: dict[str, QuotaState] | None = None, **more: object
) -> Plan:
    pools = dict.fromkeys(topology.keys, "pool")
    seen = Snapshot(NOW, lists, quotas or {}, pools, {"pool": 1000}, wall=NOW, **more)  # type: ignore[arg-type]
    return plan(seen, topology, Shares())


def keys_of(made: Plan) -> dict[str, str]:
    return {r.task_id: r.route.key for r in made.releases}


def topology(
    *tiers: tuple[Route, ...], rules: tuple[TierRule, ...] = (), balance: str = "weighted"
) -> Topology:
    return Topology({"m": tiers}, {}, {"m": BalancingPolicy(Balance(balance), rules)})


EDGE_FIRST = topology((route("edge"),), (route("cloud"),), rules=(TierRule(SHORT),))
OVERFLOW = topology((route("own"),), (route("burst"),), rules=(TierRule(), TierRule(LATE)))


def test_a_tier_serves_only_tasks_that_meet_its_condition() -> None:
    made = planned(EDGE_FIRST, heads(head("a", short=(0, FOREVER)), head("b")))
    assert keys_of(made) == {"a": "edge", "b": "cloud"}


def test_a_condition_on_waiting_time_opens_a_tier_when_it_has_come() -> None:
    full = {"account:own:m": QuotaState(cap=0)}
    lists = heads(
        head("new", since=NOW - 10, late=(60, FOREVER)), head("old", since=NOW - 61, late=(60, FOREVER))
    )
    assert keys_of(planned(OVERFLOW, lists, quotas=full)) == {"old": "burst"}


def test_a_head_whose_tiers_are_closed_to_it_is_passed_over_and_keeps_its_place() -> None:
    closed = {"account:edge:m": QuotaState(cap=0)}
    only_edge = topology(
        (route("edge"),), (route("cloud"),), rules=(TierRule(SHORT), TierRule(condition_id("large")))
    )
    large = write_facts(TierFacts(NOW, {condition_id("large"): ((0, FOREVER),)}))
    lists = heads(
        head("s1", short=(0, 99)),
        QueueHead("l1", 10, (), large),
        head("s2", short=(0, 99)),
        QueueHead("l2", 10, (), large),
    )
    made = planned(only_edge, lists, quotas=closed)
    assert [(r.task_id, r.behind) for r in made.releases] == [("l1", 1), ("l2", 2)]


def test_clients_of_a_tier_with_a_condition_take_turns_too() -> None:
    lists = [
        WaitingList(f"backlog.m.{name}", "m", name, 3, 50, tuple(head(f"{name}{n}") for n in range(50)))
        for name in ("alice", "bob")
    ]
    made = planned(EDGE_FIRST, *lists, quotas={"account:cloud:m": QuotaState(cap=20)})
    assert Counter(r.client for r in made.releases) == {"alice": 10, "bob": 10}


def test_a_prompt_that_was_too_long_goes_to_the_tier_named_for_it_and_nobody_else_does() -> None:
    tiers = topology(
        (route("main"),), (route("long"),), rules=(TierRule(), TierRule(serves=frozenset({"context_length"})))
    )
    made = planned(tiers, heads(head("a"), head("b", avoid=("tier:context_length",))))
    assert keys_of(made) == {"a": "main", "b": "long"}
    full = {"account:main:m": QuotaState(cap=0)}
    assert keys_of(planned(tiers, heads(head("a")), quotas=full)) == {}


def test_after_a_failure_another_upstream_is_tried_before_another_key_of_the_same() -> None:
    tiers = topology((route("k1", upstream="one"), route("k2", upstream="one"), route("k3", upstream="two")))
    failed = head("a", avoid=("k1", "upstream:one"))
    assert keys_of(planned(tiers, heads(failed))) == {"a": "k3"}
    closed = {"account:k3:m": QuotaState(cap=0)}
    assert keys_of(planned(tiers, heads(failed), quotas=closed)) == {"a": "k2"}
    closed["account:k2:m"] = QuotaState(cap=0)
    assert keys_of(planned(tiers, heads(failed), quotas=closed)) == {"a": "k1"}


def test_an_unauthorised_key_is_avoided_without_leaving_the_tier() -> None:
    tiers = topology(
        (route("k1", upstream="one"), route("k2", upstream="one")), (route("k3", upstream="two"),)
    )
    assert keys_of(planned(tiers, heads(head("a", avoid=("k1",))))) == {"a": "k2"}


def test_least_in_flight_fills_up_the_route_with_fewest_calls_for_its_weight() -> None:
    tiers = topology((route("k1"), route("k2", weight=2)), balance="least_in_flight")
    made = planned(tiers, heads(*(head(str(n)) for n in range(12))), flights={"k1": 3, "k2": 0})
    assert Counter(r.route.key for r in made.releases) == {"k1": 2, "k2": 10}


def test_fastest_takes_the_route_with_the_shortest_response_time_until_it_is_full() -> None:
    tiers = topology((route("k1"), route("k2"), route("k3")), balance="fastest")
    made = planned(
        tiers,
        heads(*(head(str(n)) for n in range(5))),
        speeds={("k1", "m"): 2.0, ("k2", "m"): 0.5, ("k3", "m"): 1.0},
        quotas={"account:k2:m": QuotaState(cap=2)},
    )
    assert [r.route.key for r in made.releases] == ["k2", "k2", "k3", "k3", "k3"]


def test_a_route_that_was_never_measured_is_tried() -> None:
    tiers = topology((route("k1"), route("k2")), balance="fastest")
    assert keys_of(planned(tiers, heads(head("a")), speeds={("k1", "m"): 0.1})) == {"a": "k2"}


SPANS = st.lists(st.tuples(st.integers(0, 500), st.integers(501, 900)), min_size=1, max_size=3).map(tuple)


@given(st.integers(0, 2_000_000_000), st.dictionaries(st.sampled_from([SHORT, LATE, "x"]), SPANS, min_size=1))
def test_facts_are_read_as_they_were_written(
    since: int, conditions: dict[str, tuple[tuple[float, float], ...]]
) -> None:
    assert read_facts(write_facts(TierFacts(since, conditions))) == TierFacts(since, conditions)


@given(st.text())
def test_no_facts_are_too_strange(text: str) -> None:
    assert isinstance(read_facts(text), TierFacts)
    assert not may_use(TierRule("abcdef12"), text if "abcdef12" not in text else "", (), NOW)


def test_a_plan_with_conditions_charges_what_it_used() -> None:
    shares = Shares()
    made = planned(EDGE_FIRST, heads(head("a", short=(0, FOREVER)), head("b")))
    settle_shares(shares, made.releases)
    assert {resource for resource, _ in shares.times} >= {"account:edge:m", "account:cloud:m"}


@pytest.mark.parametrize("notes", [("tier:context_length", "tier:content_filter")])
def test_who_fell_for_two_reasons_needs_a_tier_that_serves_both(notes: tuple[str, ...]) -> None:
    assert not may_use(TierRule(serves=frozenset({"context_length"})), "", notes, NOW)
    assert may_use(TierRule(serves=frozenset({"context_length", "content_filter"})), "", notes, NOW)


BACKUP = TierRule(backup=True)
BUSY = QuotaState(requests=Bucket(1.0, 1.0), level=0.0)
OPEN_BREAKER = QuotaState(cap=0, judged="breaker")


@pytest.mark.parametrize(
    ("primary", "served"),
    [
        (QuotaState(), "k"),
        (BUSY, None),  # at its limit: no reason for a backup
        (QuotaState(cap=3, flight=3), None),
        (OPEN_BREAKER, "b"),
        (QuotaState(braked_until=NOW + 5), "b"),
        (QuotaState(cap=1, flight=1, judged="probe"), "b"),
        (QuotaState(cap=1, judged="probe"), "k"),  # the probe itself
    ],
)
def test_a_backup_serves_only_while_the_tier_before_is_down(primary: QuotaState, served: str | None) -> None:
    made = topology((route("k"),), (route("b", upstream="w"),), rules=(TierRule(), BACKUP))
    quota = next(iter(route("k").quotas))
    assert keys_of(planned(made, heads(head("t")), quotas={quota: primary})).get("t") == served


def test_a_backup_serves_while_every_key_before_is_disabled_or_paused() -> None:
    made = topology((route("k"), route("l")), (route("b", upstream="w"),), rules=(TierRule(), BACKUP))
    closed = {key: Suspension("no", by_operator=key == "k") for key in ("k", "l")}
    some = Suspensions(keys={"k": closed["k"]})
    assert keys_of(planned(made, heads(head("t")), suspensions=some)) == {"t": "l"}
    assert keys_of(planned(made, heads(head("t")), suspensions=Suspensions(keys=closed))) == {"t": "b"}


def test_a_task_that_the_tiers_before_have_failed_goes_to_the_backup() -> None:
    made = topology((route("k"),), (route("b", upstream="w"),), rules=(TierRule(), BACKUP))
    failed = head("t", avoid=(upstream_note("u"), "k"))
    assert keys_of(planned(made, heads(failed, head("fresh")))) == {"t": "b", "fresh": "k"}


def test_backups_stand_in_for_each_other_in_order_and_a_condition_may_join() -> None:
    rules = (TierRule(), BACKUP, TierRule(SHORT, backup=True))
    made = topology((route("k"),), (route("b", upstream="w"),), (route("c", upstream="x"),), rules=rules)
    down = dict.fromkeys(("k", "b"), Suspension("no", by_operator=False))
    lists = heads(head("long"), head("brief", short=(0.0, FOREVER)))
    only_first = Suspensions(keys={"k": down["k"]})
    assert keys_of(planned(made, lists, suspensions=only_first)) == {"long": "b", "brief": "b"}
    assert keys_of(planned(made, lists, suspensions=Suspensions(keys=down))) == {"brief": "c"}


def test_a_model_is_without_a_key_when_all_of_its_keys_or_accounts_are_refused() -> None:
    routes = tuple((Route(key, "up", account, "m"),) for key, account in (("k1", "a"), ("k2", "b")))
    topology = Topology({"m": routes, "other": routes[1:]}, {})
    assert keyless_models(topology, {"key:k1"}) == ()
    assert keyless_models(topology, {"key:k1", "account:b"}) == ("m", "other")
    assert keyless_models(topology, {"account:b"}) == ("other",)
