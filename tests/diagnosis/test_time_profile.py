"""Where the time of tasks goes, and the advice that follows from it."""

import random
from typing import Any

import pytest

from app.diagnosis.domain.profile_advice import AskedPrompt, advice, repeats
from app.diagnosis.domain.time_split import Part, QuotaLimit, TaskTiming, split

T = 1_800_000_000.0


def trip(at: float = 0.0, *, waited: float = 0.0, took: float = 1.0, **changed: Any) -> TaskTiming:
    """Released `at`, after `waited` seconds."""
    fields: dict[str, Any] = {
        "client": "alice", "model": "m", "key": "main", "account": "acme", "outcome": "succeeded",
        "ready_at": T + at - waited, "released_at": T + at, "started_at": T + at + 0.1, "sent_at": T + at + 0.15,
        "first_byte_at": T + at + 0.15 + took * 0.8, "finished_at": T + at + 0.15 + took,
        "recorded_at": T + at + 0.2 + took, "tokens": 100,
    }  # fmt: skip
    return TaskTiming(**{**fields, **changed})


def limit(**figures: Any) -> QuotaLimit:
    return QuotaLimit("account:acme:m", "acme", False, "m", **figures)


def asked(prompt: str, **changed: Any) -> AskedPrompt:
    fields: dict[str, Any] = {
        "client": "alice", "model": "m", "fingerprint": prompt, "shown": prompt, "max_tokens": None,
        "answered": 10, "cost_picos": 5, "currency": "USD", "uses_cache": False,
    }  # fmt: skip
    return AskedPrompt(**{**fields, **changed})


def test_every_part_of_a_call_gets_its_seconds() -> None:
    found = split([[trip(waited=3.0, took=2.0)]], [], callback_seconds=0.5)
    expected = {
        Part.SLOT: 3.0, Part.QUOTA: 0, Part.STARTING: 0.1, Part.CONNECTING: 0.05, Part.FIRST_BYTE: 1.6,
        Part.BODY: 0.4, Part.RECORDING: 0.05, Part.CALLBACK: 0.5,
    }  # fmt: skip
    assert dict(found.seconds) == {part: pytest.approx(value, abs=1e-5) for part, value in expected.items()}
    assert found.total == pytest.approx(5.7, abs=1e-4)


def test_instants_that_are_not_known_or_out_of_step_count_nothing_and_nothing_twice() -> None:
    lost = trip(ready_at=None, released_at=None, sent_at=None, first_byte_at=None, recorded_at=None)
    found = split([[lost]], [])
    assert found.total == pytest.approx(found.seconds[Part.FIRST_BYTE])
    assert found.total == pytest.approx(1.05, abs=1e-4)
    behind = trip(released_at=T + 50)  # a clock that is ahead
    assert split([[behind]], []).seconds[Part.STARTING] == 0


@pytest.mark.parametrize(
    ("figures", "figure"),
    [
        ({"rpm": 60.0}, "rpm"),  # one a second, and one a second went
        ({"tpm": 6000.0}, "tpm"),
        ({"concurrency": 3}, "concurrency"),
        ({"rpm": 600.0, "tpm": 10**6, "concurrency": 50}, None),
        ({}, None),
    ],
)
def test_a_call_waited_for_the_figure_that_was_nearly_used_up(
    figures: dict[str, Any], figure: str | None
) -> None:
    steady = [trip(float(number), waited=number, took=3.0) for number in range(40)]
    found = split([steady], [limit(**figures)])
    waits = sum(range(40))
    if figure is None:
        assert (found.seconds[Part.SLOT], found.held_back) == (waits, ())
    else:
        assert found.held_back[0].figure == figure
        assert found.seconds[Part.QUOTA] > 0.75 * waits  # the first few had room yet
        assert found.seconds[Part.QUOTA] + found.seconds[Part.SLOT] == pytest.approx(waits)


def test_a_quota_of_another_account_or_model_holds_nobody_back() -> None:
    steady = [trip(float(number), waited=5.0) for number in range(40)]
    others = [
        QuotaLimit("account:other:m", "other", False, "m", rpm=1.0),
        QuotaLimit("account:acme:n", "acme", False, "n", rpm=1.0),
        QuotaLimit("key:acme:m", "acme", True, "m", rpm=1.0),
    ]
    assert split([steady], others).seconds[Part.QUOTA] == 0
    for mine in (
        QuotaLimit("key:main:*", "main", True, "*", rpm=1.0),
        QuotaLimit("a", "acme", False, "*", rpm=1.0),
    ):
        assert split([steady], [mine]).seconds[Part.SLOT] == 0


def test_the_limit_that_holds_back_most_is_named_with_its_mend() -> None:
    trips = [trip(float(number), waited=100.0) for number in range(60)]
    told, learned = limit(rpm=60.0), limit(rpm=60.0, told=False)
    said = advice(split([trips], [told]), trips, {told.id: told}, ["main"], [])
    assert len(said) == 1
    assert "rpm = 60 (configured) of account acme, model m" in said[0]
    assert "[[quota]]" in said[0]
    said = advice(split([trips], [learned]), trips, {told.id: learned}, ["main"], [])
    assert "(learned)" in said[0]
    assert "[[quota]]" not in said[0]


def test_keys_that_do_nothing_are_named_once_there_is_enough_to_tell() -> None:
    trips = [trip(), *(trip(key="bad", outcome="unavailable") for _ in range(49))]
    said = "\n".join(advice(split([trips], []), trips, {}, ["main", "bad", "idle"], []))
    assert "Key idle was never used" in said
    assert "Key bad is of little use: 100%" in said
    assert "Key main" not in said
    assert advice(split([trips[:10]], []), trips[:10], {}, ["main", "idle"], []) == []


def test_max_tokens_that_no_answer_comes_near_are_named() -> None:
    far = [asked(str(n), max_tokens=4000, answered=100 + n) for n in range(20)]
    near = [asked(f"near {n}", max_tokens=200, answered=150) for n in range(20)]
    few = [asked(f"few {n}", client="bob", max_tokens=4000, answered=100) for n in range(19)]
    said = advice(split([], []), [], {}, [], [*far, *near, *few])
    assert len(said) == 1
    assert "max_tokens = 4,000 is never reached (longest of 20 answers: 119)" in said[0]


def test_prompts_asked_again_are_counted_by_client_and_model() -> None:
    found = repeats(
        [
            *[asked("a", cost_picos=cost) for cost in (5, 7, None)],
            *[asked("b", uses_cache=True, cost_picos=None) for _ in range(2)],
            asked("a", client="bob"),
            asked("a", model="n"),
            *[asked(f"many {n}") for n in range(30) for _ in range(2)],
        ]
    )
    assert len(found) == 20
    assert (found[0].fingerprint, found[0].times, found[0].spare_picos) == ("a", 3, 12)
    said = advice(split([], []), [], {}, [], [asked("a"), asked("a"), asked("b", uses_cache=True)])
    assert said == [next(line for line in said if line.startswith("1 call repeated"))]


def test_where_slots_were_free_no_workers_are_advised() -> None:
    steady = [trip(float(number), waited=30.0) for number in range(60)]
    free, taken = split([steady], [], slots=1000), split([steady], [], slots=1)
    assert (free.seconds[Part.SLOT], free.seconds[Part.TURN]) == (0, 1800)
    assert (taken.seconds[Part.SLOT], taken.seconds.get(Part.TURN)) == (1800, None)
    said = "\n".join(advice(free, steady, {}, ["main"], []))
    assert "more workers would not help" in said
    assert "start more workers" not in said
    assert "start more workers" in "\n".join(advice(taken, steady, {}, ["main"], []))


@pytest.mark.parametrize("outcome", ["rate_limited", "overloaded", "unavailable", "timed_out", "malformed"])
def test_time_after_a_refusal_in_which_nothing_went_is_a_pause(outcome: str) -> None:
    """Ten a second; at 5 s one call comes back with that outcome, and nothing is released for 40 s."""
    before = [trip(n / 10, waited=0.3, took=0.1) for n in range(48)]
    refused = trip(4.8, waited=0.3, took=0.05, outcome=outcome)  # ends at 5.0
    after = [trip(45.0 + n / 10, waited=42.0 + n / 10, took=0.1) for n in range(100)]  # ready at 3 s
    found = split([[*before, refused, *after]], [limit(rpm=600.0)], slots=1000)
    assert found.seconds[Part.PAUSE] == pytest.approx(100 * 40, rel=0.01)
    assert found.seconds[Part.SLOT] == 0
    said = advice(found, after, {limit().id: limit(rpm=600.0)}, ["main"], [])
    assert "waiting for a pause or a breaker" in "\n".join(said)
    assert "workers" not in "\n".join(said)


def test_a_refusal_amid_calls_that_go_on_is_no_pause() -> None:
    trips = [
        trip(n / 10, waited=5.0, outcome="rate_limited" if n % 7 == 0 else "succeeded") for n in range(200)
    ]
    found = split([trips], [], slots=1000)
    assert Part.PAUSE not in found.seconds


def test_of_two_refusals_in_one_pause_and_of_two_pauses_each_second_counts_once() -> None:
    refusals = [trip(4.8 + n / 100, took=0.05, outcome="rate_limited") for n in range(3)]
    second = trip(20.0, waited=17.0, took=0.05, outcome="rate_limited")  # ready at 3 s, ends at 20.2
    last = trip(30.0, waited=27.0, took=0.1)  # ready at 3 s
    found = split([[*(trip(n / 10, took=0.1) for n in range(48)), *refusals, second, last]], [], slots=1000)
    first_pause, second_pause = 20.0 - 5.02, 30.0 - 20.2
    assert found.seconds[Part.PAUSE] == pytest.approx(2 * first_pause + second_pause, abs=0.1)


@pytest.mark.parametrize("seed", range(20))
def test_however_calls_waited_the_parts_add_up(seed: int) -> None:
    chance = random.Random(seed)
    outcomes = ["succeeded", "rate_limited", "unavailable"]
    trips = [
        trip(chance.uniform(0, 60), waited=chance.uniform(0, 50), outcome=chance.choice(outcomes))
        for _ in range(80)
    ]
    waits = (Part.QUOTA, Part.SLOT, Part.PAUSE, Part.TURN)
    found = split([trips], [limit(rpm=60.0)], slots=chance.choice([None, 2, 1000]))
    assert sum(found.seconds.get(part, 0.0) for part in waits) == pytest.approx(
        sum(one.waited for one in trips)
    )
    assert all(value >= -1e-9 for value in found.seconds.values())
