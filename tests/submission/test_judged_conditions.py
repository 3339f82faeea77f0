"""Conditions are judged once, when a task is submitted."""

from __future__ import annotations

from app.submission.check_request import SubmissionRules, draft_task
from app.submission.domain.request import TaskRequest
from app.tasks.domain.eligibility import FOREVER, condition_id, read_facts
from app.tasks.domain.task import Priority

NOW = 1_700_000_000.0
SHORT, CHINA, LATE = "prompt_tokens < 20", "region == 'cn' and priority == 'high'", "queue_wait > 60"
RULES = SubmissionRules(
    frozenset({"m", "plain"}), "m", conditions={"m": (SHORT, CHINA, LATE)}, regions={"acme": "cn"}
)


def judged(prompt: str, client: str = "acme", **wishes: object) -> dict[str, object]:
    request = TaskRequest([{"role": "user", "content": prompt}], **wishes)  # type: ignore[arg-type]
    row = draft_task(request, client, RULES, NOW)
    return dict(read_facts(row.facts or "").conditions)


def test_a_row_says_which_conditions_hold_and_after_what_wait() -> None:
    late = {condition_id(LATE): ((60.0, FOREVER),)}
    always = ((0.0, FOREVER),)
    assert judged("short") == {condition_id(SHORT): always} | late
    assert judged("long " * 50) == late
    assert judged("long " * 50, priority=Priority.HIGH) == {condition_id(CHINA): always} | late
    assert judged("long " * 50, client="other", priority=Priority.HIGH) == late


def test_the_wait_counts_from_when_the_task_may_run() -> None:
    request = TaskRequest([{"role": "user", "content": "x"}], run_at=NOW + 500)
    assert read_facts(draft_task(request, "acme", RULES, NOW).facts or "").since == NOW + 500


def test_a_model_without_conditions_costs_nothing() -> None:
    request = TaskRequest([{"role": "user", "content": "x"}], model="plain")
    assert draft_task(request, "acme", RULES, NOW).facts is None
