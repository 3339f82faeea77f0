"""The dispatcher's judgement on a real gate: what is learned, closed and opened again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.pacing.domain.breaker import BreakerState
from app.pacing.domain.fairness import Shares
from app.pacing.domain.plan import Snapshot, plan
from app.pacing.domain.rate_controller import RateController
from app.pacing.domain.tokens import DEFAULT_ANSWER
from app.settings.domain.routing import ConfiguredQuota, request_bucket
from app.tasks.domain.attempt import Brake, Outcome, Permit, Settlement, TokenUsage
from tests.pacing.pacing_world import GateWorld, one_key
from tests.stack import wait_until

ACCOUNT, UPSTREAM = "account:a1:m", "upstream:u:m"
TOLD = ConfiguredQuota(ACCOUNT, rpm=6000, concurrency=20)


def governed(redis_url: str, *quotas: ConfiguredQuota) -> GateWorld:
    world = GateWorld(redis_url, one_key(*quotas)).lead()
    world.dispatcher.controller = RateController(world.topology)
    return world


def redeemed(world: GateWorld, task_id: str) -> Permit:
    permit = world.permits.redeem(task_id, "w1")
    assert isinstance(permit, Permit)
    return permit


def released(world: GateWorld, count: int) -> list[Permit]:
    """Publish, and redeem what is released from buckets that have filled."""
    world.dispatcher.tick()
    world.fill(level=100, sent=100)
    messages = world.publish(count)
    done = sum(iter(lambda: world.dispatcher.tick().released, 0))
    return [redeemed(world, message.task_id) for message in messages[:done]]


def settle(world: GateWorld, permit: Permit, outcome: Outcome, **facts: object) -> None:
    world.permits.settle([Settlement(permit.task_id, permit.release, outcome, seconds=0.1, **facts)])  # type: ignore[arg-type]


def limits(world: GateWorld, quota: str) -> dict[str, str]:
    found = world.scripts.client.hgetall(f"penstock:quota:{quota}")
    return {name.decode(): value.decode() for name, value in found.items()}


def test_a_quota_of_which_nothing_was_told_starts_slowly(redis_url: str) -> None:
    world = governed(redis_url)
    world.dispatcher.tick()
    assert limits(world, ACCOUNT)["cap"] == "20"
    assert float(limits(world, ACCOUNT)["rate"]) == 20


def test_told_figures_stand_until_they_are_refused_and_are_ceilings_then(redis_url: str) -> None:
    world = governed(redis_url, ConfiguredQuota(ACCOUNT, concurrency=8, rpm=6000))
    permits = released(world, 8)
    assert limits(world, ACCOUNT)["cap"] == "8"
    braked = (Brake(ACCOUNT, 0.01, "rate_limited"),)
    for permit in permits[5:]:
        settle(world, permit, Outcome.RATE_LIMITED, brakes=braked, named="calls")
    world.dispatcher.tick()
    assert int(limits(world, ACCOUNT)["cap"]) in (4, 5)


def test_a_report_says_by_which_route_and_when_it_was_released(redis_url: str) -> None:
    world = governed(redis_url)
    (permit,) = released(world, 1)
    settle(world, permit, Outcome.SUCCEEDED, tokens=7, hints={"x-ratelimit-limit-requests": "300"})
    (report,) = world.gate.look(4, world.topology, world.topology.quota_ids).reports
    assert (report.key, report.upstream, report.account, report.upstream_model) == ("k1", "u", "a1", "m")
    assert report.released_at == pytest.approx(permit.released_at, abs=0.001)
    assert report.hints == {"x-ratelimit-limit-requests": "300"}


def test_limits_in_headers_are_taken_at_their_word(redis_url: str) -> None:
    world = governed(redis_url)
    (permit,) = released(world, 1)
    settle(world, permit, Outcome.SUCCEEDED, hints={"x-ratelimit-limit-requests": "300"})
    world.dispatcher.tick()
    assert float(limits(world, ACCOUNT)["rate"]) == pytest.approx(5, rel=0.05)


def test_a_quota_of_which_nothing_remains_waits_for_its_reset(redis_url: str) -> None:
    world = governed(redis_url, TOLD)
    (permit,) = released(world, 1)
    left = {"x-ratelimit-limit": "10", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "5"}
    settle(world, permit, Outcome.SUCCEEDED, hints=left)
    world.publish(3)
    assert world.dispatcher.tick().released == 0
    state = limits(world, ACCOUNT)
    assert float(state["until"]) - float(state["braked_at"]) == pytest.approx(5, abs=0.01)
    assert float(state["rate"]) == pytest.approx(2, rel=0.05)  # 10 in 5 s


def test_ten_failures_and_no_success_close_the_upstreams_model_for_all(redis_url: str) -> None:
    world = governed(redis_url, TOLD)
    for permit in released(world, 10):
        settle(world, permit, Outcome.UNAVAILABLE)
    world.publish(3)
    assert world.dispatcher.tick().released == 0
    assert world.dispatcher.controller is not None
    assert world.dispatcher.controller.states()[UPSTREAM] is BreakerState.OPEN
    closed = limits(world, UPSTREAM)
    assert closed["cap"] == "0"
    assert closed["why"].startswith("breaker open: 10 failures and hardly a success")


def test_failures_that_come_back_before_answers_close_nothing(redis_url: str) -> None:
    world = governed(redis_url, TOLD)
    permits = released(world, 20)
    for permit in permits[:10]:
        settle(world, permit, Outcome.UNAVAILABLE)
    world.publish(3)
    world.dispatcher.tick()
    assert world.dispatcher.controller is not None
    assert world.dispatcher.controller.states()[UPSTREAM] is BreakerState.CLOSED
    for permit in permits[10:]:
        settle(world, permit, Outcome.UNAVAILABLE)
    world.dispatcher.tick()
    assert world.dispatcher.controller.states()[UPSTREAM] is BreakerState.OPEN


def test_a_half_open_breaker_lets_one_through_and_its_success_opens_the_way(redis_url: str) -> None:
    world = governed(redis_url, TOLD)
    for permit in released(world, 10):
        settle(world, permit, Outcome.UNAVAILABLE)
    messages = world.publish(10)
    world.dispatcher.tick()
    world.fill(level=100, sent=100)
    controller = world.dispatcher.controller
    assert controller is not None
    controller.breakers[UPSTREAM].changed_at -= 10  # its time is over
    world.scripts.client.hset(f"penstock:quota:{UPSTREAM}", "until", 0)
    assert world.dispatcher.tick().released == 1
    assert world.dispatcher.tick().released == 0
    settle(world, redeemed(world, messages[0].task_id), Outcome.SUCCEEDED)
    assert controller.states()[UPSTREAM] is BreakerState.HALF_OPEN
    world.dispatcher.tick()
    assert controller.states()[UPSTREAM] is BreakerState.CLOSED
    assert "cap" not in limits(world, UPSTREAM)
    assert limits(world, ACCOUNT)["cap"] == "10"  # half of what was allowed


def test_what_was_learned_survives_its_leader(redis_url: str) -> None:
    world = governed(redis_url, TOLD)
    first = world.dispatcher.controller
    assert first is not None
    for permit in released(world, 6):
        settle(world, permit, Outcome.RATE_LIMITED, brakes=(Brake(ACCOUNT, 0.01, "429"),), named="calls")
    world.dispatcher.tick()
    second = RateController(world.topology)
    second.recall(first.facts())
    assert (
        second.estimators[ACCOUNT].figures["calls"].known == first.estimators[ACCOUNT].figures["calls"].known
    )


def test_a_task_that_is_passed_over_keeps_its_place_while_those_behind_it_go(redis_url: str) -> None:
    world = governed(redis_url)
    first, second = world.publish(1, facts="0;x:60-")[0], world.publish(1)[0]
    view = world.gate.look(4, world.topology, world.topology.quota_ids)
    assert [head.facts for head in view.waiting[0].heads] == ["0;x:60-", ""]
    snapshot = Snapshot(view.now, view.waiting, {}, {"k1": "p"}, {"p": 9})
    release = plan(snapshot, world.topology, Shares()).releases[1]
    assert release.task_id == second.task_id
    world.fill(level=10)
    assert world.gate.release([replace(release, behind=1)]) == ["ok"]
    left = world.gate.look(4, world.topology, world.topology.quota_ids)
    assert [head.task_id for head in left.waiting[0].heads] == [first.task_id]


def test_what_calls_use_decides_what_the_next_ones_reserve(redis_url: str) -> None:
    world = governed(redis_url, ConfiguredQuota(ACCOUNT, rpm=6000, tpm=6_000_000, concurrency=50))
    world.dispatcher.tick()
    world.fill(level=100, sent=100, tokens=100_000)
    messages = world.publish(6, estimate=1000 + DEFAULT_ANSWER)
    assert world.dispatcher.tick().released == 6
    first = [redeemed(world, message.task_id) for message in messages]
    assert {permit.estimate for permit in first} == {1000 + DEFAULT_ANSWER}
    for permit in first:
        settle(world, permit, Outcome.SUCCEEDED, tokens=640, usage=TokenUsage(600, 40))
    world.dispatcher.tick()
    (open_, asked) = (
        world.publish(1, estimate=1000 + DEFAULT_ANSWER)[0],
        world.publish(1, estimate=1100, asked=100)[0],
    )
    world.dispatcher.tick()
    assert redeemed(world, open_.task_id).estimate == 600 + 40
    assert redeemed(world, asked.task_id).estimate == 600 + 100


def test_a_leader_that_begins_again_after_a_breaker_has_closed_goes_on_at_half_pace(redis_url: str) -> None:
    """It writes the limits before it has seen the pacing store's time."""
    world = governed(redis_url, TOLD)
    controller = world.dispatcher.controller
    assert controller is not None
    breaker = controller.breakers[UPSTREAM]
    breaker.state, breaker._closed_at = BreakerState.CLOSED, 1.7e9
    world.gate.configure(controller.limits(0.0, {}))
    half, whole = float(limits(world, ACCOUNT)["rate"]), request_bucket(TOLD)
    assert whole is not None
    assert half == pytest.approx(whole.rate / 2)


def test_a_level_that_was_written_far_below_nothing_is_filled_as_an_empty_one(redis_url: str) -> None:
    world = governed(redis_url, TOLD)
    world.dispatcher.tick()
    world.fill(level=-1e7, sent=-1e7)
    messages = world.publish(3)
    wait_until(lambda: world.dispatcher.tick().released > 0, what="a release")
    assert isinstance(world.permits.redeem(messages[0].task_id, "w1"), Permit)
