"""What a batch is expected to come to: by the client's own answers and the present pace, beside the most it can."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cli.batch.submit import at_once, estimate_text
from app.pacing.domain.tokens import DEFAULT_ANSWER, AnswerLimits, estimate
from app.pacing.ports import NoExplanation, QueueForecast
from app.platform.ports import SystemClock
from app.settings.domain.routing import Topology
from app.submission.check_request import SubmissionRules
from app.submission.domain.request import BatchRequest, TaskRequest
from app.submission.submit_batch import Estimate, EstimateBatch

SAID = [{"role": "user", "content": "x" * 400}]


class Pace(NoExplanation):
    """A queue with so many tasks ahead, at so many a second."""

    def __init__(self, ahead: int, rate: float | None) -> None:
        self._forecast = QueueForecast(ahead, rate, 0.0)

    def foresee(self, model: str, queue: str, step: int, due: float) -> QueueForecast | None:
        return self._forecast


def estimated(count: int, pace: NoExplanation, **options: Any) -> Estimate:
    rules, clock = SubmissionRules(frozenset({"m"}), "m"), SystemClock()
    estimates = EstimateBatch(rules, Topology({}, {}), lambda *_: None, clock, None, pace)
    return estimates.estimate("alice", BatchRequest(**options), [TaskRequest(SAID)] * count)


def test_the_time_is_that_of_the_pace_behind_what_waits() -> None:
    found = estimated(100, Pace(ahead=900, rate=2.0))
    assert (found.seconds, found.at_pace) == (500.0, True)
    assert estimated(100, Pace(ahead=900, rate=None)).seconds is None
    assert estimated(100, NoExplanation()).at_pace is False


@pytest.mark.parametrize("options", [{"batch_size": 5}, {"run_at": SystemClock().now() + 3600}])
def test_what_sets_a_time_of_its_own_is_not_judged_by_the_pace(options: dict[str, Any]) -> None:
    assert estimated(100, Pace(ahead=900, rate=2.0), **options).at_pace is False


@given(
    limits=st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 4)), min_size=1),
    mean=st.floats(0, 5000),
)
def test_likely_answers_are_no_longer_than_they_may_be(limits: list[tuple[int, int]], mean: float) -> None:
    held, most, prompts = AnswerLimits(), 0, 0
    for limit, count in limits:
        parameters = {"n": count, **({"max_tokens": limit} if limit else {})}
        whole = estimate(SAID, parameters)
        held.add(parameters, whole)
        prompts += whole - count * (limit or DEFAULT_ANSWER)
        most += whole if limit else whole - count * DEFAULT_ANSWER + count * max(mean, DEFAULT_ANSWER)
    assert prompts <= held.tokens(mean) <= most + 1e-6


NOW = datetime(2026, 11, 30, 16, 40, tzinfo=UTC)


@pytest.mark.parametrize(("given", "words"), [
    ({"requests": 1000, "tokens": 541_096, "cost": {"micros": 649_300, "currency": "USD"}, "seconds": None},
     "1,000 requests, about 541,000 tokens, up to $0.65, duration not known yet"),
    ({"requests": 1, "tokens": 600, "cost": None, "seconds": 2.0},
     "1 request, about 600 tokens, cost not known (no price is configured), at least 2 s"),
    ({"requests": 1000, "tokens": 541_096, "cost": {"micros": 649_300, "currency": "USD"}, "seconds": 10_200,
      "at_pace": True, "likely_tokens": 24_010, "likely_cost": {"micros": 28_200, "currency": "USD"}},
     ("1,000 requests, about 24,000 tokens (at most 541,000), about $0.0282 (at most $0.65), "
      "about 2 h 50 min, done by 19:30")),
    ({"requests": 2, "tokens": 10, "cost": {"micros": 3_000_000, "currency": "CNY"}, "seconds": 36_000,
      "at_pace": True},
     "2 requests, about 10 tokens, up to 3.00 CNY, about 10 h 0 min, done by 2026-12-01 02:40"),
])  # fmt: skip
def test_an_estimate_says_what_is_likely_and_the_most(given: dict[str, Any], words: str) -> None:
    assert estimate_text(given, NOW) == words


def test_a_sample_waits_for_nothing_that_the_batch_may_wait_for() -> None:
    line = {"prompt": "a", "run_at": 1, "priority": "low", "penstock": {"order": "arrival", "retry": "x"}}
    assert at_once(line) == {"prompt": "a", "penstock": {"retry": "x"}}
