"""What one process counts, under which names."""

import shutil
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from app.platform.domain.money import CallCost
from app.platform.domain.names import OTHER, Folded, folded_counts
from app.reporting.domain.snapshot import OldestWait, QuotaSnapshot, ServiceStatus, oldest_wait
from app.reporting.meters import FIGURES, SERVICE_FIGURES, Meters, ServiceFigures
from app.tasks.domain.attempt import AttemptEnd, Claimed, Outcome, Permit, TokenUsage
from app.tasks.domain.task import Status

PERMIT = Permit("task_1", 1, "k1", "up", "acme", "flash-8k", (), 100, 1010.0)
CLAIMED = Claimed(
    permit=PERMIT,
    worker="w",
    client_id="alice",
    batch_id=None,
    model="flash",
    request='{"messages": [{"content": "a secret prompt"}]}',
    attempts=0,
    counted=0,
    lost=0,
    avoid=(),
    retry=None,
    created_at=1000.0,
    started_at=1010.5,
    expires_at=2000.0,
    callback_url=None,
    metadata=None,
)
ENDING = AttemptEnd(
    CLAIMED,
    Outcome.SUCCEEDED,
    Status.SUCCEEDED,
    1012.5,
    usage=TokenUsage(10, 5, 4, 2),
    cost=CallCost(3 * 10**12, "USD"),
    first_byte_at=1011.0,
)


def value(meters: Meters, name: str, **labels: str) -> float | None:
    return meters.registry.get_sample_value(name, labels)


def test_a_call_is_counted_by_outcome_tokens_cost_and_times() -> None:
    meters = Meters()
    meters.called(ENDING, 0.25)
    where = {"outcome": "succeeded", "model": "flash-8k", "key": "k1"}
    assert value(meters, "penstock_attempts_total", **where) == 1
    assert value(meters, "penstock_tokens_total", kind="prompt", model="flash") == 10
    assert value(meters, "penstock_client_tokens_total", kind="completion", client="alice") == 5
    assert value(meters, "penstock_cost_total", currency="USD", model="flash") == 3
    assert value(meters, "penstock_client_cost_total", currency="USD", client="alice") == 3
    assert value(meters, "penstock_task_waiting_seconds_sum", model="flash") == 10.5
    assert value(meters, "penstock_task_seconds_sum", model="flash") == 12.5
    assert value(meters, "penstock_upstream_seconds_sum", key="k1") == 2.0
    assert value(meters, "penstock_upstream_first_byte_seconds_sum", key="k1") == 0.5
    assert value(meters, "penstock_overhead_seconds_sum") == 0.25
    assert value(meters, "penstock_refusals_total", outcome="succeeded", key="k1") is None


def test_a_refused_call_of_a_task_that_goes_on_has_no_total_and_a_second_call_no_waiting() -> None:
    meters = Meters()
    again = replace(
        ENDING, claimed=replace(CLAIMED, attempts=1), outcome=Outcome.OVERLOADED, status=Status.QUEUED
    )
    meters.called(again, 0.0)
    assert value(meters, "penstock_refusals_total", outcome="overloaded", key="k1") == 1
    assert value(meters, "penstock_task_seconds_sum", model="flash") is None
    assert value(meters, "penstock_task_waiting_seconds_sum", model="flash") is None


def test_everything_else_is_counted_where_it_is_told() -> None:
    meters = Meters()
    meters.submitted("batch", "alice", "flash", 3)
    meters.looked_up(found=True)
    meters.looked_up(found=False)
    meters.ended({"succeeded": 2, "expired": 1})
    meters.lost("flash-8k", "k1")
    meters.delivered("pending", 0.1)
    meters.turned(0.002)
    meters.answered("GET", "/v1/tasks", 200, 0.01)
    assert value(meters, "penstock_tasks_submitted_total", way="batch", model="flash") == 3
    assert value(meters, "penstock_client_tasks_submitted_total", client="alice") == 3
    assert value(meters, "penstock_cache_lookups_total", result="hit") == 1
    assert value(meters, "penstock_tasks_finished_total", status="expired") == 1
    assert value(meters, "penstock_attempts_total", outcome="lost", model="flash-8k", key="k1") == 1
    assert value(meters, "penstock_callbacks_total", result="pending") == 1
    assert value(meters, "penstock_dispatcher_tick_seconds_count") == 1
    assert value(meters, "penstock_http_requests_total", method="GET", route="/v1/tasks", status="200") == 1


def test_clients_beyond_a_number_count_together() -> None:
    meters = Meters(clients=2)
    for name in ("alice", "bob", "carol", "dave", "alice"):
        meters.submitted("single", name, "flash")
    shown = {
        name: value(meters, "penstock_client_tasks_submitted_total", client=name)
        for name in ("alice", "bob", "carol", OTHER)
    }
    assert shown == {"alice": 2, "bob": 1, "carol": None, OTHER: 2}


@given(st.lists(st.text(max_size=3)), st.integers(0, 4))
def test_there_are_never_more_labels_than_allowed_and_one_for_the_rest(names: list[str], most: int) -> None:
    fold = Folded(most)
    given_out = {fold(name) for name in names}
    assert len(given_out - {OTHER}) <= most
    counts = {name: names.count(name) for name in names}
    folded = folded_counts(counts, most)
    assert sum(folded.values()) == len(names)
    assert len(folded) <= most + 1


def standing() -> ServiceStatus:
    quotas = {
        "account:acme:flash-8k": QuotaSnapshot("", rate=10.0, cap=100, flight=7, brakes=2, braked_for=1.5),
        "upstream:up:flash-8k": QuotaSnapshot("", cap=0),
    }
    return ServiceStatus(
        redis=True,
        database=True,
        leads=True,
        workers=2,
        slots=40,
        waiting_by_model={"flash": 9},
        waiting_by_client={"alice": 9},
        oldest=OldestWait(30.0, 0.25),
        quotas=quotas,
        budgets={"alice": 0.85},
        disabled={"k1": 1.0},
        without_balance={"acme": 0.0},
    )


def exposition() -> bytes:
    """Every figure that there is."""
    meters = Meters()
    meters.called(replace(ENDING, outcome=Outcome.RATE_LIMITED), 0.1)
    meters.submitted("single", "alice", "flash")
    meters.looked_up(found=True)
    meters.ended({"succeeded": 1})
    meters.delivered("delivered", 0.1)
    meters.answered("GET", "/", 200, 0.1)
    registry = CollectorRegistry()
    registry.register(ServiceFigures(standing))
    return generate_latest(meters.registry) + generate_latest(registry)


def test_every_figure_is_shown_and_none_without_its_description() -> None:
    shown = exposition().decode()
    for name in [figure.name for figure in FIGURES] + list(SERVICE_FIGURES):
        assert f"# HELP {name}" in shown, name


def test_how_the_service_stands_is_shown_by_quota_and_breaker() -> None:
    shown = exposition().decode()
    assert 'penstock_quota_in_flight{quota="account:acme:flash-8k"} 7.0' in shown
    assert 'penstock_quota_brakes_total{quota="account:acme:flash-8k"} 2.0' in shown
    assert 'penstock_breaker_state{model="flash-8k",state="open",upstream="up"} 1.0' in shown
    assert 'penstock_breaker_state{model="flash-8k",state="closed",upstream="up"} 0.0' in shown
    assert 'penstock_client_budget_used_ratio{client="alice"} 0.85' in shown
    assert 'quota="upstream' not in shown


def test_no_prompt_is_in_a_label() -> None:
    assert b"secret" not in exposition()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_names_and_units_are_as_prometheus_wants_them() -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=exposition(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_waiting_counts_from_when_a_task_could_run() -> None:
    assert oldest_wait([], 100.0) == OldestWait(0.0, 0.0)
    timed = (0.0, 90.0, 110.0, 0)  # run_at 90
    retry = (0.0, 90.0, 200.0, 2)  # came in at 0, its last try was put off to 90
    assert oldest_wait([timed], 100.0) == OldestWait(10.0, 0.5)
    assert oldest_wait([retry], 100.0) == OldestWait(100.0, 0.5)
