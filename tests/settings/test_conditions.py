"""Conditions of tiers: what they may say, and when they hold."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from app.billing.domain.calendar import Calendar
from app.settings import ConfigError, load_settings
from app.settings.tier_models import AHEAD, checked_condition, is_backup, spans_of
from app.settings.topology import build_topology
from app.tasks.domain.eligibility import FOREVER, TierFacts, read_facts, write_facts

ALWAYS, NEVER = ((0.0, FOREVER),), ()


@pytest.mark.parametrize(
    ("text", "facts", "spans"),
    [
        ("prompt_tokens < 500", {"prompt_tokens": 499}, ALWAYS),
        ("prompt_tokens < 500", {"prompt_tokens": 500}, NEVER),
        ("metadata.kind == 'keywords'", {"metadata": {"kind": "keywords"}}, ALWAYS),
        ("metadata.kind == 'keywords'", {"metadata": {"other": "keywords"}}, NEVER),
        ("metadata.kind == 'keywords'", {"metadata": None}, NEVER),
        ("metadata['kind'] in ('a', 'b')", {"metadata": {"kind": "b"}}, ALWAYS),
        ("client == 'acme' and priority != 'low'", {"client": "acme", "priority": "high"}, ALWAYS),
        ("region == 'cn' or starts_with(region, 'eu')", {"region": "eu-west"}, ALWAYS),
        ("queue_wait > 60", {}, ((60.0, FOREVER),)),
        ("60 < queue_wait", {}, ((60.0, FOREVER),)),
        ("queue_wait < 30", {}, ((0.0, 30.0),)),
        ("queue_wait > 60 and prompt_tokens < 9", {"prompt_tokens": 10}, NEVER),
        ("queue_wait > 60 or prompt_tokens < 9", {"prompt_tokens": 3}, ALWAYS),
        ("queue_wait < 10 or queue_wait > 60", {}, ((0.0, 10.0), (60.0, FOREVER))),
        ("not queue_wait > 60", {}, ((0.0, 60.0),)),
        ("true", {}, ALWAYS),
    ],
)
def test_a_condition_holds_for_spans_of_waiting_time(
    text: str, facts: dict[str, object], spans: object
) -> None:
    assert checked_condition(text) == text
    assert spans_of(text, facts) == spans


@pytest.mark.parametrize(
    "text",
    [
        "prompt_tokens <",
        "tokens < 5",
        "metadata.size < 5",  # metadata are texts
        "queue_wait * 2 > 60",
        "10 < queue_wait < 60",
        "__import__('os').system('true')",
        "metadata.__class__",
        "().__class__.__bases__",
        "open('x')",
        "peak",  # of which calendar?
        "peak('a', 'b')",
        "peak(client)",
        "hour_in('Mars/Olympus')",
        "hour_in('Asia')",
        "hour_in('')",
        "2 ** 99999999",
        "'a' * 10000000",
        "[x for x in range(9)]",
        "x := 5",
        "prompt_tokens < 5 " + "or true " * 100,
    ],
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(PydanticCustomError):
        checked_condition(text)


CALENDARS = {
    "busy": Calendar(ZoneInfo("Asia/Shanghai"), ((600, 720), (905, 1020)), frozenset(range(7))),
    "work": Calendar(ZoneInfo("Europe/Berlin"), ((540, 1080),)),
}


@pytest.mark.parametrize(
    ("text", "judge"),
    [
        ("hour >= 22 or hour < 6", lambda at: datetime.fromtimestamp(at, UTC).hour in (22, 23, *range(6))),
        (
            "hour_in('Asia/Kathmandu') in [10, 11]",
            lambda at: datetime.fromtimestamp(at, ZoneInfo("Asia/Kathmandu")).hour in (10, 11),
        ),
        (
            "hour_in('Europe/Berlin') == 2",
            lambda at: datetime.fromtimestamp(at, ZoneInfo("Europe/Berlin")).hour == 2,
        ),
        ("peak('busy')", CALENDARS["busy"].is_peak),
        (
            "not peak('busy') and peak('work')",
            lambda at: CALENDARS["work"].is_peak(at) and not CALENDARS["busy"].is_peak(at),
        ),
    ],
)
@given(since=st.integers(1_700_000_000, 1_900_000_000), waited=st.floats(0, AHEAD - 900))
def test_hours_and_calendars_are_right_at_every_instant_of_the_wait(
    text: str, judge: Callable[[float], bool], since: int, waited: float
) -> None:
    spans = spans_of(checked_condition(text), {}, since, CALENDARS)
    assert any(begin <= waited < end for begin, end in spans) == judge(since + waited)


@given(since=st.integers(1_700_000_000, 1_900_000_000), waited=st.floats(0, 3 * AHEAD))
def test_of_two_opposite_conditions_one_always_holds(since: int, waited: float) -> None:
    held = [
        any(begin <= waited < end for begin, end in spans_of(text, {}, since, CALENDARS))
        for text in ("peak('busy') and queue_wait > 60", "not (peak('busy') and queue_wait > 60)")
    ]
    assert sorted(held) == [False, True]


def test_spans_of_hours_survive_being_written(tmp_path: Path) -> None:
    spans = spans_of("peak('busy')", {}, 1_764_000_000.0, CALENDARS)
    text = write_facts(TierFacts(1_764_000_000.0, {"c": spans}))
    assert len(spans) > 10
    assert read_facts(text).conditions["c"] == spans
    assert len(text) < 400


@given(st.text(max_size=60))
def test_whatever_is_written_is_a_condition_or_refused(text: str) -> None:
    try:
        checked_condition(text)
    except PydanticCustomError:
        return
    assert all(begin < end for begin, end in spans_of(text, {}))


HEAD = """
[[upstream]]
name = "u"
base_url = "http://127.0.0.1/v1"
[[key]]
name = "main"
upstream = "u"
secret = "env:X"
[[model]]
name = "m"
"""


@pytest.mark.parametrize(
    ("tail", "line", "said"),
    [
        ('[[model.tier]]\nkeys = ["main"]\nwhen = "tokens < 5"\n', 13, "when: is no condition"),
        (
            '[[model.tier]]\nkeys = ["main"]\nwhen = "peak(\'deepsek\')"\n',
            13,
            'no [[calendar]] named "deepsek"',
        ),
        ('[[model.tier]]\nkeys = ["man"]\n', 12, 'there is no [[key]] named "man"'),
        ('[[model.tier]]\nkeys = ["main"]\nfor = ["context_length"]\n', 9, "no tier for ordinary tasks"),
        ('tiers = [["main"]]\n[[model.tier]]\nkeys = ["main"]\n', 9, "has both"),
        ('tiers = [["main"]]\nbalance = "even"\n', 12, "balance: must be"),
    ],
)
def test_faults_of_tiers_name_the_line(tmp_path: Path, tail: str, line: int, said: str) -> None:
    file = tmp_path / "penstock.toml"
    file.write_text(HEAD + tail)
    with pytest.raises(ConfigError) as caught:
        load_settings(file, {})
    assert said in str(caught.value)
    assert caught.value.line == line


def test_tiers_become_rules(tmp_path: Path) -> None:
    file = tmp_path / "penstock.toml"
    file.write_text(
        HEAD
        + 'balance = "fastest"\n[[model.tier]]\nkeys = ["main"]\nwhen = "prompt_tokens < 5"\n'
        + '[[model.tier]]\nkeys = ["main:other"]\n'
        + '[[model.tier]]\nkeys = ["main:long"]\nfor = ["context_length"]\n'
    )
    topology = build_topology(load_settings(file, {}))
    assert [[r.upstream_model for r in tier] for tier in topology.models["m"]] == [["m"], ["other"], ["long"]]
    policy = topology.policy("m")
    assert policy.balance == "fastest"
    assert [bool(rule.condition) for rule in policy.tiers] == [True, False, False]
    assert policy.tiers[2].serves == {"context_length"}


@pytest.mark.parametrize(
    ("text", "backup"),
    [("down", True), ("down and prompt_tokens < 500", True), ("prompt_tokens < 500", False), (None, False)],
)
def test_down_makes_a_tier_a_backup(text: str | None, backup: bool) -> None:
    assert is_backup(text) == backup
    assert text is None or checked_condition(text)


@pytest.mark.parametrize(
    "text", ["not down", "down or prompt_tokens < 500", "down == True", "not (down and 1)"]
)
def test_down_may_only_be_added_to_the_rest(text: str) -> None:
    with pytest.raises(ValueError, match="down"):
        checked_condition(text)
