"""A load test: what a step comes to, and when it has failed."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cli.load_test import play
from app.diagnosis.domain.load_steps import LoadAnswer, Thresholds, held, judge_step, verdict

LIMITS = Thresholds(p50=1.0, p90=2.0, p99=3.0, errors=0.01)


@pytest.mark.parametrize(
    ("answers", "broken"),
    [
        ([LoadAnswer(0.5)] * 100, ()),
        ([LoadAnswer(0.5)] * 40 + [LoadAnswer(1.5)] * 60, ("P50 1.50 s > 1 s",)),
        ([LoadAnswer(0.5)] * 80 + [LoadAnswer(2.5)] * 20, ("P90 2.50 s > 2 s",)),
        ([LoadAnswer(0.5)] * 98 + [LoadAnswer(9.0)] * 2, ("P99 9.00 s > 3 s",)),
        ([LoadAnswer(0.5)] * 99 + [LoadAnswer(0.1, "429")], ()),
        ([LoadAnswer(0.5)] * 97 + [LoadAnswer(0.1, "429")] * 3, ("errors 3.0% > 1.0%",)),
        ([LoadAnswer(60.0, "timeout")] * 5, ("errors 100.0% > 1.0%", "no request succeeded")),
        ([], ("errors 100.0% > 1.0%", "no request succeeded")),
    ],
)
def test_a_step_breaks_the_thresholds_it_exceeds(answers: list[LoadAnswer], broken: tuple[str, ...]) -> None:
    assert judge_step(5, 10.0, answers, LIMITS).broken == broken


def test_errors_count_by_kind_and_not_as_times() -> None:
    step = judge_step(
        5, 10.0, [LoadAnswer(1.0)] * 18 + [LoadAnswer(60.0, "timeout"), LoadAnswer(0.0, "503")], LIMITS
    )
    assert step.errors == {"timeout": 1, "503": 1}
    assert step.error_share == 0.1
    assert step.a_second == 1.8
    assert step.times.p99 == 1.0


def test_the_verdict_names_the_users_that_are_served_and_what_broke() -> None:
    good = [judge_step(users, 10.0, [LoadAnswer(0.5)] * 10, LIMITS) for users in (1, 5)]
    bad = judge_step(20, 10.0, [LoadAnswer(5.0)] * 10, Thresholds(p99=3.0))
    assert verdict(good) == "passed: 5 users at once are served within the thresholds"
    assert verdict([*good, bad]) == "failed: 5 users at once are served; 20 are not: P99 5.00 s > 3 s"
    assert verdict([bad]) == "failed: no step kept the thresholds; 20 are not: P99 5.00 s > 3 s"
    assert (held(good), held([*good, bad]), held([bad])) == (5, 5, 0)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=200), st.floats(0.001, 100))
def test_what_is_allowed_is_never_broken_and_what_is_not_always(seconds: list[float], most: float) -> None:
    step = judge_step(1, 1.0, [LoadAnswer(each) for each in seconds], Thresholds(p99=most))
    assert bool(step.broken) == (step.times.p99 > most)
    assert judge_step(1, 1.0, [LoadAnswer(each) for each in seconds], Thresholds()).broken == ()


def test_each_step_has_its_users_at_once_and_the_first_broken_one_is_the_last() -> None:
    lock, at_once, most = threading.Lock(), 0, list[int]()

    def ask(_number: int) -> LoadAnswer:
        nonlocal at_once
        with lock:
            at_once += 1
            most.append(at_once)
            users = at_once
        time.sleep(0.01)
        with lock:
            at_once -= 1
        return LoadAnswer(5.0 if users > 3 else 0.5)

    steps = list(play([1, 2, 8, 16], 0.2, 10_000, ask, Thresholds(p99=3.0)))
    assert [step.users for step in steps] == [1, 2, 8]
    assert [bool(step.broken) for step in steps] == [False, False, True]
    assert max(most) <= 8


def test_no_more_requests_are_sent_than_allowed_and_each_has_its_number() -> None:
    numbers: list[int] = []

    def ask(number: int) -> LoadAnswer:
        numbers.append(number)
        return LoadAnswer(0.1)

    steps = list(play([4, 8], 30.0, 25, ask, Thresholds()))
    assert sorted(numbers) == list(range(1, 26))
    assert [step.requests for step in steps] == [25]
