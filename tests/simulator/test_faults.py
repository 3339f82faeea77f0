"""Which fault strikes which call."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import FAULT_TEXTS
from simulator.faults import KINDS, Fault, FaultBook, Target, matches

CALL = Target("sk-alice", "acme", "deepseek-flash", stream=False, prompt="tell me about rivers")


def struck(
    faults: list[Fault], calls: int, target: Target = CALL, at: float = 0.0, seed: int = 1
) -> list[str]:
    book = FaultBook(faults, Random(seed))
    found = (book.strike(target, at) for _ in range(calls))
    return [fault.name if fault else "" for fault in found]


def test_without_rules_nothing_fails() -> None:
    assert struck([], 3) == ["", "", ""]


def test_a_rate_of_one_strikes_always_and_of_zero_never() -> None:
    assert struck([Fault("500", rate=0), Fault("503", rate=1)], 3) == ["503"] * 3


@given(st.floats(0, 1), st.integers())
def test_a_rate_is_the_share_of_calls_that_fail(rate: float, seed: int) -> None:
    failed = sum(name != "" for name in struck([Fault("503", rate=rate)], 2000, seed=seed))
    assert abs(failed - 2000 * rate) <= 6 * (2000 * rate * (1 - rate)) ** 0.5 + 1


def test_the_same_seed_lets_the_same_calls_fail() -> None:
    faults = [Fault("503", rate=0.3), Fault("reset", rate=0.2)]
    assert struck(faults, 50, seed=7) == struck(faults, 50, seed=7) != struck(faults, 50, seed=8)


def test_the_first_rule_that_falls_strikes() -> None:
    assert struck([Fault("500"), Fault("503")], 2) == ["500", "500"]


def test_a_count_bounds_how_often_a_rule_strikes() -> None:
    assert struck([Fault("503", count=2)], 4) == ["503", "503", "", ""]


@pytest.mark.parametrize(("at", "fails"), [(0, False), (9.99, False), (10, True), (69.99, True), (70, False)])
def test_a_schedule_holds_from_its_first_second_to_before_its_last(at: float, fails: bool) -> None:
    rule = Fault("503", from_seconds=10, until_seconds=70)
    assert matches(rule, CALL, at) is fails


@pytest.mark.parametrize(
    "rule",
    [
        Fault("503", key="sk-bob"),
        Fault("503", account="other"),
        Fault("503", model="deepseek-v4-pro"),
        Fault("503", stream=True),
        Fault("503", contains="mountains"),
        Fault("503", endpoint="balance"),
        Fault("stream-cut"),
    ],
)
def test_a_rule_passes_by_what_it_does_not_name(rule: Fault) -> None:
    assert not matches(rule, CALL, 0)


@pytest.mark.parametrize(
    "rule",
    [
        Fault("503", key="sk-alice", account="acme", model="deepseek-flash", stream=False),
        Fault("503", contains="rivers"),
        Fault("503", endpoint="*"),
    ],
)
def test_a_rule_strikes_what_it_names(rule: Fault) -> None:
    assert matches(rule, CALL, 0)


def test_an_unknown_fault_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match="there are: 400, 401"):
        Fault("sunspots")


@pytest.mark.parametrize("fields", [{"rate": 1.5}, {"rate": -0.1}, {"interval": -1}, {"size": -1}])
def test_figures_that_make_no_sense_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        Fault("503", **fields)


def test_every_fault_by_status_has_its_words() -> None:
    pages = {"502", "504"}  # these answer as proxies do
    assert {name for name in KINDS if name.isdecimal()} - pages <= set(FAULT_TEXTS)
