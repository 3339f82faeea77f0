"""The auditor sees what it is there to see."""

from dataclasses import replace

import pytest

from tests.chaos.auditor import Evidence, Recovery, audit
from tests.chaos.fault import chosen
from tests.chaos.recovery import WINDOW, back_at
from tests.chaos.report import faults
from tests.chaos.server_faults import SERVER_FAULTS

CLEAN = Evidence(
    accepted=["a", "b"],
    rows={"a": "succeeded", "b": "succeeded"},
    results={"a": 1, "b": 1},
    answered={"a": 1, "b": 1},
    calls={"a": ["ok"], "b": ["ok"]},
    rightly_failing=frozenset({"400"}),
    refused=0,
    most_in_a_minute={"q": (10, 10)},
    callbacks={"a": {"evt_1"}, "b": {"evt_2"}},
    unverified=(),
    in_flight_at_kills=0,
)


def broken(evidence: Evidence) -> list[str]:
    return [finding.law for finding in audit(evidence) if not finding.held]


def test_clean_evidence_breaks_no_law() -> None:
    assert broken(CLEAN) == []


@pytest.mark.parametrize(
    ("evidence", "law"),
    [
        (
            replace(CLEAN, accepted=["a", "b", "c"], callbacks={**CLEAN.callbacks, "c": {"e"}}),
            "nothing accepted is lost",
        ),
        (replace(CLEAN, rows={"a": "running", "b": "succeeded"}), "every task comes to an end"),
        (replace(CLEAN, rows={"a": "failed", "b": "succeeded"}), "faults of ours fail no task"),
        (replace(CLEAN, results={"a": 2}), "a task is recorded once"),
        (
            replace(CLEAN, calls={"a": ["client_gone", "ok"]}),
            "calls are repeated only for those in flight at a kill",
        ),
        (replace(CLEAN, refused=1), "no quota is exceeded"),
        (replace(CLEAN, most_in_a_minute={"q": (11, 10)}), "no quota is exceeded"),
        (replace(CLEAN, callbacks={"a": {"e"}}), "every callback is delivered"),
        (replace(CLEAN, callbacks={"a": {"e", "f"}, "b": {"g"}}), "a callback's id is stable"),
        (replace(CLEAN, unverified=("a head",)), "callbacks are signed"),
        (
            replace(CLEAN, recoveries=[Recovery("f", "", 1.0, 10.1)]),
            "back to 90 % of pace within 10 s of a fault's end",
        ),
        (
            replace(CLEAN, recoveries=[Recovery("f", "", 1.0, None)]),
            "back to 90 % of pace within 10 s of a fault's end",
        ),
    ],
)
def test_each_breach_is_seen(evidence: Evidence, law: str) -> None:
    assert law in broken(evidence)


def test_a_repeat_of_what_was_in_flight_at_a_kill_is_allowed() -> None:
    assert broken(replace(CLEAN, calls={"a": ["client_gone", "ok"], "b": ["ok"]}, in_flight_at_kills=1)) == []


def test_a_call_that_an_attempt_accounts_for_is_no_repeat() -> None:
    assert broken(replace(CLEAN, calls={"a": ["500", "ok"]}, answered={"a": 2})) == []


def test_what_the_upstream_itself_refuses_may_fail_a_task_and_nothing_else() -> None:
    failed = replace(
        CLEAN, rows={"a": "failed", "b": "succeeded"}, calls={"a": ["500", "400"]}, answered={"a": 2}
    )
    assert broken(failed) == []
    assert broken(replace(failed, calls={"a": ["400", "500"]})) == ["faults of ours fail no task"]
    expired = {"a": "expired", "b": "succeeded"}
    assert broken(replace(failed, rows=expired)) == ["faults of ours fail no task"]


def test_the_pace_is_back_where_a_whole_window_of_sends_begins() -> None:
    steady = [float(second) for second in range(20, 40)]
    assert back_at(steady, 10.0, 40.0, 1.0) == 20.0
    assert back_at(steady, 22.5, 40.0, 1.0) == 22.5
    assert back_at(steady, 10.0, 20.0 + WINDOW - 0.1, 1.0) is None
    assert back_at(steady[::2], 10.0, 40.0, 1.0) is None


def test_the_table_holds_the_worst_of_each_fault() -> None:
    table = faults(
        [Recovery("a", "x", 1.0, 2.0), Recovery("b", "y", 3.0, None), Recovery("a", "x", 5.0, 1.0)]
    )
    assert table.splitlines()[2:] == ["| `a` | x | 2 | 5 | 2.0 |", "| `b` | y | 1 | 3 | not seen |"]


def test_faults_are_chosen_by_name_or_first_word() -> None:
    names = [fault.name for fault in chosen(SERVER_FAULTS, "redis-frozen, postgres")]
    assert names[0] == "redis-frozen"
    assert names[1:] == ["postgres-restarted", "postgres-cut", "postgres-frozen", "postgres-full"]
    with pytest.raises(ValueError, match="no fault 'redis-fro'"):
        chosen(SERVER_FAULTS, "redis-fro")
