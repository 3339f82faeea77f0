"""Where the time of tasks goes, and the advice that follows from it."""

import random
from typing import Any

import pytest

from app.diagnosis.domain.profile_advice import AskedPrompt, BatchPace, Circumstances, proposals, repeats
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


def advice(*evidence: Any, **more: Any) -> list[str]:
    return [one.sentence for one in proposals(*evidence, **more)]


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
    told, learned = limit(rpm=60.0), limit(rpm=60.0, configured=False)
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


@pytest.mark.parametrize(("gap", "rpm"), [(20.0, 3.0), (1.0, 60.0), (0.5, 120.0)])
def test_the_figures_in_force_are_told_where_a_limit_was_lower_than_configured(
    gap: float, rpm: float
) -> None:
    """600 a minute configured, a thousand slots free, and one call each `gap` seconds."""
    slow = [trip(n * gap, waited=60.0) for n in range(60)]
    found = split([slow], [limit(rpm=6000.0)], slots=1000)
    [seen] = found.lowered
    assert (seen.account, seen.model, seen.calls, seen.seconds) == ("acme", "m", 60, 3600)
    assert seen.rpm == pytest.approx(rpm)
    said = "\n".join(advice(found, slow, {limit().id: limit(rpm=6000.0)}, ["main"], []))
    assert f"about {rpm:g} a minute, at most" in said
    assert "6000 rpm configured" in said
    assert "start more workers" not in said


def test_a_limit_on_calls_at_once_that_was_lower_shows_as_such() -> None:
    two_at_once = [trip(n * 1.0, waited=60.0, took=1.9) for n in range(60)]
    [seen] = split([two_at_once], [], slots=1000).lowered
    assert seen.concurrency == 3  # the third begins as the first ends
    assert split([two_at_once], [], slots=1).lowered == ()  # slots were short: no other figure is to blame


def test_percentiles_by_part_count_the_calls_that_did_not_wait() -> None:
    waits = [0.0] * 89 + [10.0] * 11
    found = split([[trip(float(n), waited=w) for n, w in enumerate(waits)]], [])
    assert found.spread[Part.SLOT] == (0.0, 10.0, 10.0)
    assert found.spread[Part.FIRST_BYTE].p50 == pytest.approx(0.8, abs=1e-4)


def test_calls_are_told_by_model_and_key_with_network_and_inference_apart() -> None:
    quick = [trip(float(n), took=1.0) for n in range(9)]
    slow = [trip(float(n), took=5.0, key="far", outcome="unavailable") for n in range(3)]
    lost = trip(3.0, sent_at=None)
    main, far = split([[*quick, *slow, lost]], [], round_trips={"main": 0.2}).groups
    assert (main.key, main.calls, main.failed, main.tokens) == ("main", 10, 0, 1000)
    assert main.took.p50 == pytest.approx(1.05, abs=1e-4)
    assert main.network is not None
    assert main.network.p99 == pytest.approx(0.25, abs=1e-4)
    assert main.inference is not None
    assert main.inference.p99 == pytest.approx(0.8, abs=1e-4)
    assert (far.failed, far.network, far.inference) == (3, None, None)


def proposed(setting: str, *evidence: Any, **more: Any) -> list[tuple[str, str, str]]:
    return [(p.now, p.value, p.gain) for p in proposals(*evidence, **more) if p.setting == setting]


def test_a_limit_is_proposed_with_its_tokens_and_seconds() -> None:
    trips = [trip(float(n), waited=100.0, tokens=500) for n in range(60)]
    told = limit(rpm=60.0)
    [(now, value, gain)] = proposed(
        "[[quota]] account:acme:m rpm", split([trips], [told]), trips, {told.id: told}, [], []
    )
    assert (now, value) == ("60", "120")
    assert "up to 30,000 tokens a minute more" in gain  # 60 more calls of 500
    assert "100.0 s less wait" in gain


def test_worker_slots_are_proposed_with_the_seconds_of_a_call() -> None:
    trips = [trip(float(n), waited=30.0, took=5.0) for n in range(60)]
    around = Circumstances(slots=4)
    found = proposed("[worker] concurrency", split([trips], [], slots=4), trips, {}, [], [], around)
    assert found == [("4", "8", "up to 28.5 s a call")]  # the first few had room


@pytest.mark.parametrize(
    ("batch", "proposal"),
    [
        (BatchPace("batch_1", 5, 1000, 300.0), [("5", "10", "up to 150 of 300 seconds")]),
        (BatchPace("batch_1", 30, 1000, 300.0), [("30", "40", "up to 75 of 300 seconds")]),
        (BatchPace("batch_1", 40, 1000, 300.0), []),  # all slots
        (BatchPace("batch_1", 5, 5, 300.0), []),  # it never waited for itself
    ],
)
def test_a_larger_batch_size_is_proposed_where_slots_were_free(
    batch: BatchPace, proposal: list[tuple[str, str, str]]
) -> None:
    trips = [trip(float(n), waited=30.0) for n in range(60)]
    around = Circumstances(slots=40, batches=[batch])
    assert proposed("batch_size", split([trips], [], slots=40), trips, {}, [], [], around) == proposal
    taken = split([[trip(0.0, waited=30.0, took=100.0) for _ in range(60)]], [], slots=40)
    assert proposed("batch_size", taken, trips, {}, [], [], around) == []


@pytest.mark.parametrize(
    ("second", "outcome", "count"), [(1.0, "succeeded", 1), (3.0, "succeeded", 0), (1.0, "unavailable", 0)]
)
def test_a_much_faster_key_of_a_later_tier_is_proposed_first(second: float, outcome: str, count: int) -> None:
    first = [trip(float(n), took=5.0) for n in range(30)]
    later = [trip(float(n), took=second, key="b", outcome=outcome) for n in range(30)]
    tiers = {"chat": [[("main", "m")], [("b", "m")]]}
    found = split([[*first, *later]], [])
    said = proposed("[[model]] chat tiers", found, [*first, *later], {}, [], [], Circumstances(tiers=tiers))
    assert len(said) == count
    if count:
        assert said[0] == ("main before b", "b before main", "about 4.0 s a call")
    turned = {"chat": [[("b", "m")], [("main", "m")]]}
    assert not proposed("[[model]] chat tiers", found, first, {}, [], [], Circumstances(tiers=turned))


def test_max_tokens_are_proposed_with_the_tokens_that_become_free() -> None:
    trips = [trip(0.0), trip(119.0, took=0.5)]  # two minutes
    far = [asked(str(n), max_tokens=4000, answered=10) for n in range(20)]
    [(now, value, gain)] = proposed("max_tokens", split([], []), trips, {}, [], far)
    assert (now, value) == ("4000", "16")
    assert gain.startswith("39,")  # 3,984 tokens of 20 answers in two minutes


def test_the_cache_is_proposed_with_money_and_seconds() -> None:
    trips = [trip(float(n), took=1.85) for n in range(5)]
    again = [asked("a", cost_picos=2 * 10**9) for _ in range(4)]
    [(_, _, gain)] = proposed("cache", split([trips], []), trips, {}, [], again)
    assert gain == "0.006 USD and 5.7 seconds of calls"
    cached = [asked("a", uses_cache=True) for _ in range(4)]
    assert proposed("cache", split([trips], []), trips, {}, [], cached) == []


RULES = "Answer with one word. " * 40


@pytest.mark.parametrize(
    ("texts", "count"),
    [
        ([f"{n * 7919} rows" + RULES for n in range(20)], 1),
        ([RULES + f"{n * 7919} rows" for n in range(20)], 0),
        ([f"{n * 7919} rows" for n in range(20)], 0),
        ([RULES] * 20, 0),  # equal ones: the cache's business
        ([f"{n * 7919} rows" + RULES for n in range(5)], 0),
        ([f"{n * 7919} rows" * 900 + RULES for n in range(20)], 0),  # the fixed part is a small one
    ],
)
def test_prompts_whose_fixed_part_stands_last_are_told_to_turn_round(texts: list[str], count: int) -> None:
    ones = [asked(str(n), text=text) for n, text in enumerate(texts)]
    assert len(proposed("order of the prompt", split([], []), [], {}, [], ones)) == count


@pytest.mark.parametrize(("characters", "count"), [(40_000, 1), (2_000, 0)])
def test_gzip_is_proposed_for_long_prompts_to_upstreams_without(characters: int, count: int) -> None:
    ones = [asked(str(n), characters=characters) for n in range(20)]
    around = Circumstances(tiers={"m": [[("main", "m")]]}, unpacked={"main": "u"})
    said = proposed("[[upstream]] u gzip", split([], []), [], {}, [], ones, around)
    assert [one[:2] for one in said] == [("false", "true")] * count
    packed = Circumstances(tiers={"m": [[("main", "m")]]})
    assert proposed("[[upstream]] u gzip", split([], []), [], {}, [], ones, packed) == []


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
