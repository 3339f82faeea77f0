"""The auditor sees what it is there to see."""

from dataclasses import replace

import pytest

from tests.chaos.auditor import Evidence, audit

CLEAN = Evidence(
    accepted=["a", "b"],
    rows={"a": "succeeded", "b": "succeeded"},
    results={"a": 1, "b": 1},
    calls={"a": 1, "b": 1},
    refused=0,
    most_in_a_minute={"q": (10, 10)},
    callbacks={"a": {"evt_1"}, "b": {"evt_2"}},
    unverified=0,
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
        (replace(CLEAN, calls={"a": 2}), "calls are repeated only for those in flight at a kill"),
        (replace(CLEAN, refused=1), "no quota is exceeded"),
        (replace(CLEAN, most_in_a_minute={"q": (11, 10)}), "no quota is exceeded"),
        (replace(CLEAN, callbacks={"a": {"e"}}), "every callback is delivered"),
        (replace(CLEAN, callbacks={"a": {"e", "f"}, "b": {"g"}}), "a callback's id is stable"),
        (replace(CLEAN, unverified=1), "callbacks are signed"),
    ],
)
def test_each_breach_is_seen(evidence: Evidence, law: str) -> None:
    assert law in broken(evidence)


def test_a_repeat_of_what_was_in_flight_at_a_kill_is_allowed() -> None:
    assert broken(replace(CLEAN, calls={"a": 2, "b": 1}, in_flight_at_kills=1)) == []
