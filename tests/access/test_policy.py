"""Policies by attribute: deny overrides allow, and what is not known is not believed."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.access.authenticate import UNREADABLE, client_address, zones_of
from app.access.domain.policy import CallFacts, Decision, evaluate, forbids_place, parse_policy
from app.platform.domain.url_rules import parse_networks

DOCUMENT = {
    "effect": "allow",
    "principal": ["user:team_a"],
    "resource": ["api:deepseek-chat"],
    "condition": {"time": {"between": ["09:00", "18:00"]}, "ip": {"in": ["192.168.1.0/24"]}},
}


def at(hour: int, minute: int = 0) -> float:
    return datetime(2026, 11, 20, hour, minute, tzinfo=UTC).timestamp()


ASKED = CallFacts(
    at=at(12),
    action="tasks:write",
    team="team_a",
    address="192.168.1.7",
    model="deepseek-chat",
    max_tokens=100,
)


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({}, True),
        ({"at": at(9)}, True),
        ({"at": at(8, 59)}, False),
        ({"at": at(17, 59)}, True),
        ({"at": at(18)}, False),
        ({"address": "192.168.2.7"}, False),
        ({"address": "::ffff:192.168.1.9"}, True),
        ({"address": None}, False),
        ({"address": "no address"}, False),
        ({"model": "deepseek-reasoner"}, False),
        ({"team": "team_b"}, False),
        ({"team": "", "user": "team_a"}, True),
        ({"team": "", "client": "team_a"}, True),
        ({"team": "", "key": "team_a"}, False),
    ],
)
def test_the_example_evaluates_as_it_reads(changes: Any, allowed: bool) -> None:
    policy = parse_policy(DOCUMENT, "p1")
    decision = evaluate([policy], replace(ASKED, **changes), "deny")
    assert decision == Decision(allowed, "p1" if allowed else "default")


def test_deny_overrides_allow_whatever_the_order() -> None:
    allow, deny = parse_policy({"effect": "allow"}, "a"), parse_policy({"effect": "deny"}, "d")
    assert evaluate([allow, deny], ASKED) == evaluate([deny, allow], ASKED) == Decision(False, "d")


@pytest.mark.parametrize("default", ["allow", "deny"])
def test_the_operator_chooses_the_default(default: Any) -> None:
    assert evaluate([], ASKED, default) == Decision(default == "allow", "default")


def test_the_default_is_about_models_alone() -> None:
    assert evaluate([], replace(ASKED, model=None, action="tasks:read"), "deny").allowed


def test_a_statement_with_an_action_reaches_calls_without_a_model() -> None:
    deny = parse_policy({"effect": "deny", "action": ["admin:*"], "condition": {"zone": {"in": ["outside"]}}})
    asked = replace(ASKED, model=None, action="admin:write", zones=frozenset({"outside"}))
    assert not evaluate([deny], asked).allowed
    assert evaluate([deny], replace(asked, zones=frozenset())).allowed
    assert evaluate([deny], replace(asked, action="tasks:write")).allowed


def test_a_region_that_might_serve_denies_the_model() -> None:
    deny = parse_policy({"effect": "deny", "resource": ["region:us-*"]})
    assert not evaluate([deny], replace(ASKED, regions=frozenset({"cn", "us-east"}))).allowed
    assert evaluate([deny], replace(ASKED, regions=frozenset({"cn"}))).allowed


def test_an_allow_must_name_every_region_and_upstream_that_might_serve() -> None:
    allow = parse_policy({"effect": "allow", "resource": ["region:eu"]})
    assert evaluate([allow], replace(ASKED, regions=frozenset({"eu"})), "deny").allowed
    assert not evaluate([allow], replace(ASKED, regions=frozenset({"eu", "us"})), "deny").allowed
    assert not evaluate([allow], ASKED, "deny").allowed
    upstream = parse_policy({"effect": "allow", "resource": ["upstream:deepseek"]})
    assert evaluate([upstream], replace(ASKED, upstreams=frozenset({"deepseek"})), "deny").allowed


@pytest.mark.parametrize(("tokens", "allowed"), [(4096, True), (4097, False), (None, False)])
def test_a_request_without_max_tokens_counts_as_unlimited(tokens: int | None, allowed: bool) -> None:
    deny = parse_policy({"effect": "deny", "condition": {"max_tokens": {"above": 4096}}})
    assert evaluate([deny], replace(ASKED, max_tokens=tokens)).allowed is allowed


def test_hours_may_cross_midnight_and_have_a_zone() -> None:
    night = parse_policy({"effect": "deny", "condition": {"time": {"between": ["22:00", "06:00"]}}})
    assert [evaluate([night], replace(ASKED, at=at(hour))).allowed for hour in (21, 22, 5, 6)] == [
        True,
        False,
        False,
        True,
    ]
    condition = {"time": {"between": ["20:00", "24:00"], "zone": "Asia/Shanghai"}}
    shanghai = parse_policy({"effect": "deny", "condition": condition})
    assert not evaluate([shanghai], replace(ASKED, at=at(12))).allowed


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ([], "policy"),
        ({}, "effect"),
        ({"effect": "maybe"}, "effect"),
        ({"effect": "deny", "who": []}, "who"),
        ({"effect": "deny", "principal": ["bob"]}, "principal"),
        ({"effect": "deny", "principal": []}, "principal"),
        ({"effect": "deny", "resource": ["disk:x"]}, "resource"),
        ({"effect": "deny", "condition": {"moon": {}}}, "condition.moon"),
        ({"effect": "deny", "condition": {"time": {"between": ["9", "25:00"]}}}, "condition.time"),
        ({"effect": "deny", "condition": {"time": {"between": ["09:00"]}}}, "condition.time"),
        (
            {"effect": "deny", "condition": {"time": {"between": ["09:00", "10:00"], "zone": "X/Y"}}},
            "condition.time",
        ),
        ({"effect": "deny", "condition": {"ip": {"in": ["192.168.1.1/24"]}}}, "condition.ip"),
        ({"effect": "deny", "condition": {"ip": {"on": []}}}, "condition.ip"),
        ({"effect": "deny", "condition": {"max_tokens": {"above": "many"}}}, "condition.max_tokens"),
    ],
)
def test_a_statement_that_cannot_be_meant_names_its_field(document: Any, field: str) -> None:
    with pytest.raises(ValueError, match=field.replace(".", r"\.")):
        parse_policy(document)


@given(
    st.recursive(st.none() | st.text() | st.integers(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_anything_else_is_refused_and_breaks_nothing(document: Any) -> None:
    for given_ in (
        document,
        {"effect": "allow", "condition": document},
        {"effect": "deny", "principal": document},
    ):
        try:
            parse_policy(given_)
        except ValueError:
            continue


PROXIES = parse_networks(["10.0.0.0/8"])


@pytest.mark.parametrize(
    ("peer", "header", "found"),
    [
        ("9.9.9.9", None, "9.9.9.9"),
        ("9.9.9.9", "1.1.1.1", "9.9.9.9"),
        ("10.0.0.1", "1.1.1.1", "1.1.1.1"),
        ("10.0.0.1", "6.6.6.6, 1.1.1.1", "1.1.1.1"),
        ("10.0.0.1", "1.1.1.1, 10.0.0.2", "1.1.1.1"),
        ("10.0.0.1", "1.1.1.1:443", "1.1.1.1"),
        ("10.0.0.1", "[2001:db8::1]:443", "2001:db8::1"),
        ("10.0.0.1", "rubbish", UNREADABLE),
        ("10.0.0.1", "unknown, 10.0.0.2", UNREADABLE),
        ("10.0.0.1", "1.1.1.1, _hidden", UNREADABLE),
        ("9.9.9.9", "rubbish", "9.9.9.9"),
        ("10.0.0.1", " ", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
    ],
)
def test_only_trusted_proxies_are_believed(peer: str, header: str | None, found: str) -> None:
    assert client_address(peer, header, PROXIES) == found


@pytest.mark.parametrize(
    "condition",
    [{"ip": {"in": ["10.0.0.0/8"]}}, {"ip": {"not_in": ["10.0.0.0/8"]}}, {"zone": {"in": ["office"]}}],
)
@pytest.mark.parametrize("address", [UNREADABLE, None])
def test_an_address_that_nobody_can_judge_gets_past_no_deny_and_into_no_allow(
    condition: dict[str, Any], address: str | None
) -> None:
    facts = replace(ASKED, address=address)
    for effect, default in (("deny", "allow"), ("allow", "deny")):
        policy = parse_policy({"effect": effect, "condition": condition}, "p1")
        assert not evaluate([policy], facts, default).allowed


def test_zones_are_named_networks() -> None:
    zones = {"office": parse_networks(["192.168.0.0/16"]), "lab": parse_networks(["192.168.7.0/24"])}
    assert zones_of("192.168.7.1", zones) == {"office", "lab"}
    assert zones_of(None, zones) == zones_of("x", zones) == frozenset()


@pytest.mark.parametrize(
    ("effect", "principal", "matches"),
    [
        ("allow", "user:alice", False),
        ("allow", "user:*alice", False),
        ("allow", "user:t1/alice", True),
        ("allow", "user:t1/*", True),
        ("allow", "user:*", True),
        ("allow", "*", True),
        ("allow", "user:t1", True),  # the team itself
        ("deny", "user:alice", True),
        ("deny", "user:t1/alice", True),
        ("deny", "user:bob", False),
    ],
)
def test_a_name_given_by_a_team_gains_nothing_and_loses_what_is_denied(
    effect: str, principal: str, matches: bool
) -> None:
    facts = CallFacts(at=0.0, action="tasks:write", client="c", team="t1", user="t1/alice", model="m")
    policy = parse_policy({"effect": effect, "principal": [principal]}, "p")
    other = "deny" if effect == "allow" else "allow"
    allowed = evaluate([policy], facts, other).allowed
    assert allowed is (matches if effect == "allow" else not matches)


EU = {"effect": "allow", "principal": ["client:c"], "resource": ["region:eu"]}
NOT_US = {"effect": "deny", "principal": ["client:c"], "resource": ["region:us"]}


@pytest.mark.parametrize(
    ("statements", "default", "region", "rule"),
    [
        ([NOT_US], "allow", "us", "p0"),
        ([NOT_US], "allow", "eu", None),
        ([NOT_US | {"principal": ["client:other"]}], "allow", "us", None),
        ([NOT_US | {"principal": ["team:t"]}], "allow", "us", "p0"),
        ([NOT_US | {"resource": ["upstream:up"]}], "allow", "us", "p0"),
        ([NOT_US | {"principal": ["key:k_1"]}], "allow", "us", None),  # which key it was is unknown by now
        ([NOT_US | {"condition": {"ip": {"in": ["10.0.0.0/8"]}}}], "allow", "us", None),
        ([EU], "deny", "us", "default"),
        ([EU], "deny", "eu", None),
        ([EU | {"principal": ["user:anna"]}], "deny", "eu", None),
        ([EU | {"principal": ["user:anna"]}], "deny", "us", "default"),
        ([EU, {"effect": "allow", "resource": ["model:m"]}], "deny", "us", None),
        ([{"effect": "allow", "resource": ["model:other"]}], "deny", "us", None),  # not about places
        ([EU, NOT_US], "deny", "us", "p1"),
        ([EU | {"action": ["admin:*"]}], "deny", "us", None),
    ],
)
def test_a_waiting_task_may_not_run_at_a_place_that_policies_forbid_by_now(
    statements: list[dict[str, Any]], default: Any, region: str, rule: str | None
) -> None:
    policies = [parse_policy(one, f"p{number}") for number, one in enumerate(statements)]
    facts = CallFacts(
        at=at(12),
        action="tasks:write",
        client="c",
        team="t",
        model="m",
        upstreams=frozenset({"up"}),
        regions=frozenset({region}),
    )
    assert forbids_place(policies, facts, default) == rule
