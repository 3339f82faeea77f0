"""Tasks that begin alike go to the account that saw that beginning last, while it has room."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pacing.domain.fairness import Shares
from app.pacing.domain.plan import QueueHead, Snapshot, WaitingList, plan
from app.pacing.domain.route_availability import PrefixAffinity, prefer_cached_account, prefix_of
from app.settings.domain.routing import QuotaState, Route, Topology

LONG = "You are a careful clerk who reads every line twice. " * 10
SYSTEM = {"role": "system", "content": LONG}
USER = {"role": "user", "content": "Case 7"}


def route(key: str) -> Route:
    return Route(key, "u", key, "m")


TIERS = Topology({"m": ((route("a"), route("b")), (route("c"),))})


def released(
    homes: PrefixAffinity, *, full: str = "", avoid: tuple[str, ...] = (), number: int = 6
) -> list[str]:
    """The keys that tasks of one prefix go to."""
    heads = tuple(QueueHead(f"task_{n}", 10, avoid, prefix="p") for n in range(number))
    lists = (WaitingList("backlog.m.alice", "m", "alice", 3, number, heads),)
    quotas = {f"account:{full}:m": QuotaState(cap=1, flight=1)} if full else {}
    pools, slots = dict.fromkeys("abc", "pool"), {"pool": 100}
    made = plan(Snapshot(0.0, lists, quotas, pools, slots, affinity=homes), TIERS, Shares())
    return [release.route.key for release in made.releases]


def seen_by(account: str) -> PrefixAffinity:
    homes = PrefixAffinity()
    homes.saw("p", account)
    return homes


def test_an_unknown_beginning_is_spread_as_ever() -> None:
    assert sorted(set(released(PrefixAffinity()))) == ["a", "b"]


@pytest.mark.parametrize("home", ["a", "b"])
def test_a_known_one_goes_where_it_was_seen(home: str) -> None:
    assert set(released(seen_by(home))) == {home}


def test_when_home_is_full_another_serves() -> None:
    assert set(released(seen_by("a"), full="a")) == {"b"}


def test_no_task_leaves_its_tier_for_a_cache() -> None:
    assert set(released(seen_by("c"))) == {"a", "b"}


def test_a_key_to_be_avoided_is_no_home() -> None:
    assert "a" not in released(seen_by("a"), avoid=("a",))


def test_a_release_says_what_it_began_with() -> None:
    heads = (QueueHead("task_1", 10, prefix="p"),)
    made = plan(
        Snapshot(0.0, (WaitingList("q", "m", "alice", 3, 1, heads),), {}, {"a": "x"}, {"x": 1}),
        TIERS,
        Shares(),
    )
    assert made.releases[0].prefix == "p"


@given(
    st.sampled_from(["a", "b", "c"]), st.sampled_from(["a", "b", "c", None]), st.sets(st.sampled_from("abc"))
)
def test_the_choice_is_the_chosen_one_or_one_at_home_in_its_tier(
    chosen: str, home: str | None, able: set[str]
) -> None:
    tier = next(t for t in TIERS.models["m"] if route(chosen) in t)
    taken = prefer_cached_account(route(chosen), home, tier, map(route, sorted(able)))
    assert taken == route(chosen) or (taken.account == home and taken in tier and taken.key in able)


def test_equal_system_prompts_of_one_client_and_model_have_one_name() -> None:
    name = prefix_of("alice", "m", [SYSTEM, USER])
    assert name is not None
    assert name == prefix_of("alice", "m", [SYSTEM])
    others = {
        prefix_of("bob", "m", [SYSTEM]),
        prefix_of("alice", "n", [SYSTEM]),
        prefix_of("alice", "m", [{**SYSTEM, "content": LONG + "!"}]),
    }
    assert name not in others
    assert len(others) == 3


@pytest.mark.parametrize(
    "messages",
    [[], [USER, SYSTEM], [{"role": "system", "content": "short"}], [{"role": "system", "content": [LONG]}]],
)
def test_what_no_cache_would_hold_has_no_name(messages: list[dict[str, object]]) -> None:
    assert prefix_of("alice", "m", messages) is None


def test_what_was_not_seen_longest_is_forgotten() -> None:
    homes = PrefixAffinity(most=2)
    for prefix in ("p", "q", "p", "r"):
        homes.saw(prefix, "a")
    assert (homes.get("p"), homes.get("q"), homes.get("r")) == ("a", None, "a")
