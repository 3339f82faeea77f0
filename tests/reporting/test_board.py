"""What the dashboard shows, out of what was read: pure."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.reporting.domain.dashboard_view import (
    LimitShare,
    by_reason,
    later_by_client,
    quota_lines,
    timeline,
    waiting_lines,
)
from app.reporting.domain.recent_calls import (
    KEPT_SECONDS,
    EndedCall,
    Forecast,
    Pace,
    Sender,
    Sent,
    kind_of,
    per_second,
)
from app.reporting.domain.snapshot import QuotaSnapshot
from app.settings.domain.routing import ConfiguredQuota, Route, Topology, account_quota
from app.tasks.domain.attempt import Outcome
from app.tasks.domain.task import may_run_again

NOW = 1_800_000_000.0
ROUTE = Route("k1", "up", "acme", "flash")
ACME = account_quota("acme", "flash")


def call(at: float, outcome: str = Outcome.SUCCEEDED, client: str = "alice", tokens: int = 10) -> EndedCall:
    return EndedCall(client, "k1", "acme", "flash", outcome, at - 1, at, tokens)


def topology(**told: float) -> Topology:
    return Topology({"m": ((ROUTE,),)}, {ACME: ConfiguredQuota(ACME, **told)} if told else {})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Flight:
    account: str = "acme"
    key: str = "k1"
    upstream_model: str = "flash"
    young: int = 5


@dataclass(frozen=True)
class Row:
    model: str
    error_code: str | None
    status: str = "failed"
    finished_at: float | None = NOW


def test_each_end_is_counted_in_its_second_and_for_its_client() -> None:
    pace = Pace()
    pace.add(
        [
            call(NOW - 5),
            call(NOW - 5, client="bob"),
            call(NOW - 5, Outcome.RATE_LIMITED),
            call(NOW - 4, Outcome.LOST),
        ]
    )
    everybody = {second.at: second for second in pace.seconds(None, NOW)}
    assert (everybody[int(NOW) - 5].done, everybody[int(NOW) - 5].refused) == (2, 1)
    assert everybody[int(NOW) - 4].failed == 1
    assert sum(second.done for second in pace.seconds("alice", NOW)) == 1
    assert len(everybody) == KEPT_SECONDS


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_is_done_refused_failed_or_was_no_call(outcome: Outcome) -> None:
    assert kind_of(outcome) in ("done", "refused", "failed", None)


def test_the_pace_is_of_the_last_ten_seconds() -> None:
    pace = Pace()
    pace.add(call(NOW - second) for second in range(1, 11) for _ in range(4))
    assert per_second(pace.seconds(None, NOW)) == 4.0
    assert per_second(pace.seconds(None, NOW + 60)) == 0.0
    assert per_second([]) == 0.0


@given(st.lists(st.floats(0, 1000), max_size=50))
def test_what_is_too_old_is_forgotten(ages: list[float]) -> None:
    pace = Pace()
    pace.add(call(NOW - age) for age in ages)
    pace.forget(NOW)
    assert all(second >= NOW - KEPT_SECONDS - 2 for second in pace._ended)
    assert pace.sent(NOW).get(Sender("acme", "k1", "flash"), Sent()).calls <= len(ages)


def test_use_of_a_quota_counts_ended_and_running_calls_of_the_last_minute() -> None:
    pace = Pace()
    pace.add([call(NOW - 5), call(NOW - 58.5), call(NOW - 70)])
    sights = {ACME: QuotaSnapshot(ACME, rate=10.0, cap=8, flight=5)}
    (line,) = quota_lines(topology(rpm=600, concurrency=8), sights, pace.sent(NOW), [Flight()])
    assert line.calls == LimitShare(7, 600)
    assert line.flight == LimitShare(5, 8)
    assert line.tokens.limit is None
    assert (line.kind, line.name, line.model) == ("account", "acme", "flash")


def test_a_figure_that_nobody_told_is_learned_and_one_below_the_told_one_too() -> None:
    sights = {ACME: QuotaSnapshot(ACME, rate=5.0, cap=20)}
    (line,) = quota_lines(topology(), sights, {}, [])
    assert (line.calls, line.flight) == (
        LimitShare(0, 300.0, configured=False),
        LimitShare(0, 20, configured=False),
    )
    (line,) = quota_lines(topology(concurrency=100), sights, {}, [])
    assert line.flight == LimitShare(0, 20, configured=False)


def test_a_quota_without_limit_is_shown_only_once_it_has_braked() -> None:
    assert quota_lines(topology(), {}, {}, []) == []
    braked = {ACME: QuotaSnapshot(ACME, braked_for=3.0, why="429", brakes=1)}
    (line,) = quota_lines(topology(), braked, {}, [])
    assert line.state.braked
    assert line.calls.limit is None


def test_waiting_is_summed_by_model_and_client_longest_first() -> None:
    queued = {"backlog.m.alice": 5, "backlog.a/b.c.bob": 90, "odd": 3}
    lines = waiting_lines(queued, {"backlog.m.alice": 100}, most=100)
    assert [(line.model, line.client_id, line.total) for line in lines] == [
        ("m", "alice", 105),
        ("a/b.c", "bob", 90),
    ]
    assert [line.counted_up for line in lines] == [True, False]


def test_the_rest_waits_for_something_and_few_are_taken_for_none_while_things_move() -> None:
    ready = waiting_lines({"backlog.m.alice": 1000, "backlog.m.bob": 10}, {}, most=10**6)
    waiting = {"alice": 1015, "bob": 40, "carol": 7, "dave": 3}
    assert later_by_client(waiting, ready, moving=True) == {"bob": 30, "carol": 7}
    assert later_by_client(waiting, ready, moving=False) == {"alice": 15, "bob": 30, "carol": 7, "dave": 3}


def test_failures_are_grouped_by_reason_the_latest_first() -> None:
    rows = [
        Row("m", "a", finished_at=NOW - 9),
        Row("m", "b"),
        Row("m", "a", finished_at=NOW - 3),
        Row("n", None, "expired"),
    ]
    groups = by_reason(rows)
    assert {(group.reason, group.model): len(group.rows) for group in groups} == {
        ("a", "m"): 2,
        ("b", "m"): 1,
        ("expired", "n"): 1,
    }
    assert groups[-1].reason == "a"
    assert groups[-1].rows[0].finished_at == NOW - 3


@pytest.mark.parametrize(
    ("status", "code", "replaced_by", "may"),
    [
        ("failed", "upstream_unavailable", None, True),
        ("failed", "worker_lost", None, True),
        ("expired", "expired", None, True),
        ("expired", None, None, True),
        ("failed", "upstream_unavailable", "task_2", False),
        ("failed", "invalid_request", None, False),
        ("failed", "content_filter", None, False),
        ("failed", "context_length_exceeded", None, False),
        ("succeeded", None, None, False),
        ("cancelled", None, None, False),
        ("running", None, None, False),
    ],
)
def test_only_what_could_come_to_something_else_may_run_again(
    status: str, code: str | None, replaced_by: str | None, may: bool
) -> None:
    assert may_run_again(status, code, replaced_by) is may


def test_a_batch_is_forecast_by_its_latest_pace_else_by_its_whole_life() -> None:
    forecast = Forecast()
    assert forecast.done_at("b", NOW - 100, 50, 100, NOW) == NOW + 100
    assert forecast.done_at("b", None, 50, 100, NOW) is None
    for second in range(11):
        forecast.look("b", 50 + 10 * second, NOW + second)
    assert forecast.done_at("b", NOW - 1000, 150, 250, NOW + 10) == pytest.approx(NOW + 20)
    assert forecast.done_at("b", NOW, 250, 250, NOW + 10) is None
    forecast.keep([])
    assert forecast.done_at("b", None, 150, 250, NOW + 10) is None


def test_a_timeline_is_in_order_and_whole() -> None:
    task = {
        "created_at": NOW,
        "available_at": NOW,
        "model": "m",
        "attempts": 2,
        "finished_at": NOW + 9,
        "status": "succeeded",
        "error_message": None,
    }
    base = {
        "key": "k1",
        "upstream_model": "flash",
        "counted": False,
        "upstream_request_id": None,
        "error_message": "busy",
        "first_byte_at": None,
    }
    attempts = [
        {
            **base,
            "released_at": NOW + 1,
            "started_at": NOW + 2,
            "finished_at": NOW + 3,
            "outcome": "rate_limited",
            "status_code": 429,
        },
        {
            **base,
            "released_at": NOW + 5,
            "started_at": NOW + 6,
            "finished_at": NOW + 9,
            "outcome": "succeeded",
            "status_code": 200,
        },
    ]
    deliveries = [
        {
            "number": 1,
            "type": "task.succeeded",
            "started_at": NOW + 10,
            "finished_at": NOW + 11,
            "status_code": 500,
            "error": None,
        }
    ]
    moments = timeline(task, attempts, deliveries)
    assert [moment.title for moment in moments] == [
        "Queued",
        "Released",
        "Call 1: rate limited",
        "Released",
        "Call 2: succeeded",
        "Succeeded",
        "Callback, attempt 1",
    ]
    assert [moment.tone for moment in moments[2::2]] == ["waiting", "good", "bad"]
    assert moments[2].took == 1
    assert "not counted as an attempt" in moments[2].detail
