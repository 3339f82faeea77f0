"""What is released, when, to which key, for whom."""

from __future__ import annotations

from collections import Counter
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.pacing.domain.fairness import ClientShare, Shares
from app.pacing.domain.plan import Plan, QueueHead, Snapshot, WaitingList, plan, settle_shares
from app.settings.domain.routing import Bucket, QuotaState, Route, Topology

NOW = 1000.0
_ids = count()


def route(key: str, *, account: str = "", weight: float = 1.0) -> Route:
    return Route(key, "u", account or key, "m", weight)


def waiting(
    client: str, number: int, *, model: str = "m", step: int = 3, estimate: float = 10, **facts: object
) -> WaitingList:
    heads = tuple(QueueHead(f"{client}-{step}-{next(_ids)}", estimate, **facts) for _ in range(number))  # type: ignore[arg-type]
    return WaitingList(f"backlog.{model}.{client}", model, client, step, number, heads)


def snapshot(
    *lists: WaitingList,
    quotas: dict[str, QuotaState] | None = None,
    slots: int = 1000,
    keys: str = "k1 k2 k3",
    **facts: object,
) -> Snapshot:
    pools = dict.fromkeys(keys.split(), "pool")
    return Snapshot(NOW, lists, quotas or {}, pools, {"pool": slots}, **facts)  # type: ignore[arg-type]


def topology(*tiers: tuple[Route, ...], model: str = "m") -> Topology:
    return Topology({model: tiers})


def clients_of(made: Plan) -> Counter[str]:
    return Counter(r.client for r in made.releases)


def keys_of(made: Plan) -> Counter[str]:
    return Counter(r.route.key for r in made.releases)


ONE = topology((route("k1", account="a"),))


def test_a_bucket_lets_out_what_it_holds_and_says_when_the_next_may_go() -> None:
    made = plan(
        snapshot(waiting("alice", 9), quotas={"account:a:m": QuotaState(Bucket(5, 2), 3.5)}), ONE, Shares()
    )
    assert len(made.releases) == 3
    assert made.wake_in == pytest.approx(0.25)
    assert made.waits["m"].reason == "account:a:m"


def test_a_cap_counts_what_is_in_flight() -> None:
    made = plan(
        snapshot(waiting("alice", 9), quotas={"account:a:m": QuotaState(cap=5, flight=3)}), ONE, Shares()
    )
    assert len(made.releases) == 2
    assert made.wake_in == float("inf")


def test_a_brake_stops_everything_on_its_quota_and_nothing_else() -> None:
    two = topology((route("k1", account="a"), route("k2", account="b")))
    made = plan(
        snapshot(waiting("alice", 4), quotas={"key:k1:*": QuotaState(braked_until=NOW + 9)}), two, Shares()
    )
    assert keys_of(made) == {"k2": 4}


def test_nothing_is_released_beyond_the_slots_that_workers_reported() -> None:
    two = topology((route("k1"), route("k2")))
    assert len(plan(snapshot(waiting("alice", 9), slots=3), two, Shares()).releases) == 3


def test_a_key_that_no_worker_consumes_gets_nothing() -> None:
    two = topology((route("k1"), route("lonely")))
    assert keys_of(plan(snapshot(waiting("alice", 4)), two, Shares())) == {"k1": 4}


def test_keys_of_a_tier_take_turns_by_weight() -> None:
    tier = topology((route("k1", weight=3), route("k2", weight=1)))
    assert keys_of(plan(snapshot(waiting("alice", 400)), tier, Shares())) == {"k1": 300, "k2": 100}


def test_the_next_tier_is_used_only_when_the_first_has_no_room() -> None:
    tiers = topology((route("k1"),), (route("k2"),))
    made = plan(snapshot(waiting("alice", 5), quotas={"account:k1:m": QuotaState(cap=2)}), tiers, Shares())
    assert [r.route.key for r in made.releases] == ["k1", "k1", "k2", "k2", "k2"]


def test_two_keys_of_one_account_share_its_quota() -> None:
    both = topology((route("k1", account="a"), route("k2", account="a")))
    made = plan(snapshot(waiting("alice", 9), quotas={"account:a:m": QuotaState(cap=4)}), both, Shares())
    assert len(made.releases) == 4


def test_a_call_must_pass_every_quota_that_matches_it() -> None:
    quotas = {
        "account:a:m": QuotaState(cap=5),
        "key:k1:*": QuotaState(Bucket(3, 1), 3.0),
        "upstream:u:*": QuotaState(cap=4),
    }
    assert len(plan(snapshot(waiting("alice", 9), quotas=quotas), ONE, Shares()).releases) == 3


def test_a_task_goes_to_another_key_than_the_one_it_should_avoid_while_that_has_room() -> None:
    two = topology((route("k1"), route("k2")))
    made = plan(snapshot(waiting("alice", 3, avoid=("k1",))), two, Shares())
    assert keys_of(made) == {"k2": 3}


def test_a_task_goes_to_the_key_it_should_avoid_rather_than_wait() -> None:
    assert keys_of(plan(snapshot(waiting("alice", 3, avoid=("k1",))), ONE, Shares())) == {"k1": 3}


def test_equal_clients_take_turns() -> None:
    made = plan(
        snapshot(waiting("alice", 50), waiting("bob", 50), quotas={"account:a:m": QuotaState(cap=20)}),
        ONE,
        Shares(),
    )
    assert clients_of(made) == {"alice": 10, "bob": 10}


def test_clients_are_served_by_weight() -> None:
    made = plan(
        snapshot(
            waiting("alice", 90),
            waiting("bob", 90),
            quotas={"account:a:m": QuotaState(cap=40)},
            clients={"alice": ClientShare(3.0)},
        ),
        ONE,
        Shares(),
    )
    assert clients_of(made) == {"alice": 30, "bob": 10}


def test_a_client_that_comes_anew_is_next_however_long_another_has_been_served() -> None:
    shares, quotas = Shares(), {"account:a:m": QuotaState(cap=1)}
    for _ in range(200):
        settle_shares(shares, plan(snapshot(waiting("alice", 5), quotas=quotas), ONE, shares).releases)
    served = []
    for _ in range(4):
        made = plan(snapshot(waiting("alice", 5), waiting("bob", 5), quotas=quotas), ONE, shares)
        settle_shares(shares, made.releases)
        served += [r.client for r in made.releases]
    assert "bob" in served[:2]
    assert Counter(served) == {"alice": 2, "bob": 2}


def test_priorities_of_a_client_take_turns_at_sixteen_four_one() -> None:
    lists = [waiting("alice", 210, step=step) for step in (0, 3, 6)]
    made = plan(snapshot(*lists, quotas={"account:a:m": QuotaState(cap=210)}), ONE, Shares())
    assert Counter(r.step for r in made.releases) == {0: 160, 3: 40, 6: 10}


def test_across_clients_a_priority_counts_up_to_what_was_granted() -> None:
    lists = (waiting("alice", 100, step=0), waiting("bob", 100, step=3), waiting("carol", 100, step=0))
    granted = {"carol": ClientShare(1.0, granted=0)}
    made = plan(snapshot(*lists, quotas={"account:a:m": QuotaState(cap=60)}, clients=granted), ONE, Shares())
    assert clients_of(made) == {"alice": 10, "bob": 10, "carol": 40}


def test_large_prompts_cost_their_client_more_turns() -> None:
    quotas = {"account:a:m": QuotaState(tokens=Bucket(6000, 100), token_level=6000)}
    made = plan(
        snapshot(waiting("alice", 90, estimate=300), waiting("bob", 90, estimate=100), quotas=quotas),
        ONE,
        Shares(),
    )
    spent = Counter[str]()
    for release in made.releases:
        spent[release.client] += int(release.estimate)
    assert abs(spent["alice"] - spent["bob"]) <= 300


def test_a_head_that_waits_for_tokens_holds_its_turn() -> None:
    quotas = {"account:a:m": QuotaState(tokens=Bucket(1000, 100), token_level=300)}
    shares = Shares()
    shares.charge("account:a:m", "bob", 5)
    made = plan(
        snapshot(waiting("alice", 1, estimate=900), waiting("bob", 9, estimate=10), quotas=quotas),
        ONE,
        shares,
    )
    assert made.releases == ()
    assert made.wake_in == pytest.approx(6.0)


def test_a_head_that_holds_its_turn_on_one_quota_leaves_the_others_to_the_rest() -> None:
    two = topology((route("k1"), route("k2")))
    low = QuotaState(tokens=Bucket(1000, 100), token_level=500)
    lower = QuotaState(tokens=Bucket(1000, 100), token_level=100)
    shares = Shares()
    for quota in ("account:k1:m", "account:k2:m"):
        shares.charge(quota, "bob", 0.0001)
    quotas = {"account:k1:m": low, "account:k2:m": lower}
    made = plan(
        snapshot(waiting("alice", 1, estimate=900), waiting("bob", 9, estimate=50), quotas=quotas),
        two,
        shares,
    )
    assert [(r.client, r.route.key) for r in made.releases] == [("bob", "k2"), ("bob", "k2")]


def test_models_that_share_a_quota_share_it_by_client() -> None:
    routes = {name: ((Route("k1", "u", "a", name),),) for name in ("m", "n")}
    lists = (waiting("alice", 90), waiting("bob", 90, model="n"))
    made = plan(snapshot(*lists, quotas={"account:a:*": QuotaState(cap=20)}), Topology(routes), Shares())
    assert clients_of(made) == {"alice": 10, "bob": 10}


def test_a_model_with_a_slow_quota_gets_its_slots_beside_one_with_a_fast_quota() -> None:
    routes = {name: ((Route(f"k{name}", "u", name, name),),) for name in ("m", "n")}
    shares, served = Shares(), Counter[str]()
    quotas = {
        "account:m:m": QuotaState(Bucket(50, 50), 50.0),
        "account:n:n": QuotaState(Bucket(1, 1), 1.0),
    }
    for _ in range(4):
        lists = (waiting("alice", 9), waiting("alice", 9, model="n"))
        made = plan(snapshot(*lists, quotas=quotas, slots=1, keys="km kn"), Topology(routes), shares)
        settle_shares(shares, made.releases)
        served.update(r.model for r in made.releases)
    assert served == {"m": 2, "n": 2}


def test_more_is_asked_for_when_all_heads_were_taken_while_there_was_room() -> None:
    line = waiting("alice", 4)
    longer = WaitingList(line.queue, line.model, line.client, line.step, 50, line.heads)
    assert plan(snapshot(longer), ONE, Shares()).more
    assert not plan(snapshot(longer, quotas={"account:a:m": QuotaState(cap=4)}), ONE, Shares()).more


QUOTAS = st.builds(
    QuotaState,
    requests=st.none() | st.builds(Bucket, st.floats(1, 20), st.floats(0.1, 50)),
    level=st.floats(-5, 20),
    tokens=st.none() | st.builds(Bucket, st.floats(50, 500), st.floats(1, 500)),
    token_level=st.floats(-500, 500),
    cap=st.none() | st.integers(0, 12),
    flight=st.integers(0, 12),
    braked_until=st.sampled_from([0.0, 0.0, 0.0, NOW + 5]),
)
ROUTES = tuple(route(f"k{i}", account=f"a{i % 3}", weight=1 + i % 2) for i in range(4))
TIERS = topology(ROUTES[:2], ROUTES[2:])
LISTS = st.lists(
    st.tuples(
        st.sampled_from(["alice", "bob", "carol"]),
        st.sampled_from([0, 3, 6]),
        st.integers(1, 8),
        st.integers(1, 800),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda one: one[:2],
)
WORLDS = st.tuples(
    LISTS, st.dictionaries(st.sampled_from(TIERS.quota_ids), QUOTAS, max_size=8), st.integers(0, 30)
)


def world(drawn: tuple[list[tuple[str, int, int, int]], dict[str, QuotaState], int]) -> Snapshot:
    lists, quotas, slots = drawn
    lines = [waiting(client, number, step=step, estimate=size) for client, step, number, size in lists]
    return snapshot(*lines, quotas=quotas, slots=slots, keys="k0 k1 k2 k3")


@given(WORLDS)
def test_no_bucket_and_no_cap_is_ever_overdrawn(
    drawn: tuple[list[tuple[str, int, int, int]], dict[str, QuotaState], int],
) -> None:
    seen = world(drawn)
    made = plan(seen, TIERS, Shares())
    assert len(made.releases) <= drawn[2]
    for name, state in seen.quotas.items():
        through = [r for r in made.releases if name in r.route.quotas]
        if not through:
            continue
        assert state.braked_until <= NOW
        assert state.cap is None or state.flight + len(through) <= state.cap
        assert state.requests is None or len(through) <= state.level + 1e-3
        if state.tokens is not None:
            level = state.token_level
            for release in through:
                assert level >= min(release.estimate, state.tokens.size) - 1e-3
                level -= release.estimate


@given(WORLDS)
def test_nothing_waits_while_its_quotas_have_room_and_a_slot_is_free_but_behind_a_head_that_holds_its_turn(
    drawn: tuple[list[tuple[str, int, int, int]], dict[str, QuotaState], int],
) -> None:
    seen = world(drawn)
    made = plan(seen, TIERS, Shares())
    if len(made.releases) == drawn[2]:
        return  # no slot is free
    released = {r.task_id for r in made.releases}
    left = [w for w in seen.waiting if any(h.task_id not in released for h in w.heads)]
    after = {name: _after(name, state, made) for name, state in seen.quotas.items()}
    open_routes = [r for r in ROUTES if all(_opens(after.get(q), 0) for q in r.quotas)]
    if not left or not open_routes:
        return
    # Whatever is still open is open only for smaller prompts than those of the heads that hold it.
    largest = max(h.estimate for w in left for h in w.heads if h.task_id not in released)
    assert not all(_opens(after.get(q), largest) for r in open_routes for q in r.quotas)


def _after(name: str, s: QuotaState, made: Plan) -> QuotaState:
    through = [r for r in made.releases if name in r.route.quotas]
    spent = sum(r.estimate for r in through)
    return QuotaState(
        s.requests,
        s.level - len(through),
        s.tokens,
        s.token_level - spent,
        s.cap,
        s.flight + len(through),
        s.braked_until,
    )


def _opens(state: QuotaState | None, estimate: float) -> bool:
    return state is None or state.opens_in(estimate, NOW) <= 1e-4


@given(WORLDS)
@settings(max_examples=50)
def test_the_same_snapshot_gives_the_same_plan(
    drawn: tuple[list[tuple[str, int, int, int]], dict[str, QuotaState], int],
) -> None:
    seen = world(drawn)
    shares = Shares()
    assert plan(seen, TIERS, shares) == plan(seen, TIERS, shares)
    assert shares == Shares()


@given(st.lists(st.integers(1, 400), min_size=2, max_size=5), st.integers(1, 4))
def test_equal_clients_never_drift_apart_by_more_than_one_large_call(sizes: list[int], cap: int) -> None:
    shares, spent = Shares(), Counter[str]()
    bucket = Bucket(1000, 100)
    for _ in range(60):
        lists = [waiting(f"c{i}", 4, estimate=size) for i, size in enumerate(sizes)]
        state = QuotaState(tokens=bucket, token_level=1000, cap=cap)
        made = plan(snapshot(*lists, quotas={"account:a:m": state}), ONE, shares)
        settle_shares(shares, made.releases)
        for release in made.releases:
            spent[release.client] += max(release.estimate / bucket.rate, 1 / cap)
    assert (
        max(spent.values()) - min(spent[f"c{i}"] for i in range(len(sizes)))
        <= 2 * max(max(sizes) / bucket.rate, 1 / cap) + 1e-6
    )
