"""Why a task waits, in words; how fast lists move; how good estimates were."""

from __future__ import annotations

import pytest

from app.pacing.domain.plan import NEVER, Wait
from app.pacing.domain.throughput import ReleaseRates
from app.pacing.domain.why import binding_of, held_in_words, in_words, named, starts_in
from app.settings.domain.routing import Bucket, QuotaState
from app.tasks.domain.task import Hold

NOW = 1000.0
QUOTA = "account:acme:m"


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        (
            QuotaState(braked_until=NOW + 5),
            "rate_limited (429)",
            "a pause in 5 s: rate_limited (429) (account acme",
        ),
        (QuotaState(cap=0), "5 failures in a row", "an open circuit breaker: 5 failures in a row"),
        (QuotaState(cap=20, flight=20), "", "one of 20 concurrent calls to finish (account acme, model m)"),
        (QuotaState(Bucket(1, 10), 0.2), "", "600 requests per minute"),
        (QuotaState(tokens=Bucket(9, 100)), "", "6000 tokens per minute"),
    ],
)
def test_the_binding_limit_is_named(state: QuotaState, reason: str, words: str) -> None:
    assert words in in_words(binding_of(Wait(QUOTA, 1.0), {QUOTA: state}, {QUOTA: reason}, NOW))


@pytest.mark.parametrize(
    ("reason", "words"), [("slots", "a free worker slot"), ("route", "a tier"), ("", "its turn")]
)
def test_what_is_no_quota_is_named_too(reason: str, words: str) -> None:
    assert words in in_words(binding_of(Wait(reason, NEVER), {}, {}, NOW))


def test_quotas_in_words() -> None:
    assert named("upstream:deepseek:*") == "upstream deepseek"
    assert named("key:k1:org/model:v2") == "key k1, model org/model:v2"


def test_a_row_that_is_held_says_for_what() -> None:
    assert "its scheduled time, at 1970-01-01T00:33:20" in str(held_in_words(Hold.UNTIL, 2000.0, NOW))
    again = str(held_in_words(Hold.UNTIL, 2000.0, NOW, attempts=2))
    assert again.startswith("its next attempt, after 2 so far, at 1970")
    assert "batch_size" in str(held_in_words(Hold.BATCH, 0.0, NOW))
    assert "paused batch to be resumed" in str(held_in_words(Hold.BATCH, 0.0, NOW, batch_paused=True))
    assert "paused batch to be resumed" in str(held_in_words(Hold.PAUSED, 0.0, NOW))
    assert held_in_words(Hold.OFF_PEAK, 59_400.0, NOW) == "off-peak hours, from 16:30 UTC"
    assert "budget" in str(held_in_words(Hold.BUDGET, 0.0, NOW))
    assert "identical" in str(held_in_words(Hold.FOLLOWING, 0.0, NOW))
    assert held_in_words(Hold.NONE, 0.0, NOW) is None
    assert held_in_words(99, 0.0, NOW) is None


def test_a_start_is_estimated_from_what_is_ahead_the_pace_and_what_is_closed() -> None:
    assert starts_in(10, 2.0, 0.0) == 5.0
    assert starts_in(10, 2.0, 0.5) == 5.0  # the next slot of a pace is part of it
    assert starts_in(10, 2.0, 30.0) == 35.0  # a pause comes first
    assert starts_in(10, 2.0, NEVER) == 5.0
    assert starts_in(0, None, 3.0) == 3.0
    assert starts_in(0, None, 0.0) == 0.0
    assert starts_in(1, None, 0.0) is None
    assert starts_in(0, None, NEVER) is None


def test_a_lists_pace_is_that_of_the_last_half_minute() -> None:
    paces = ReleaseRates()
    for number in range(20):
        paces.released("q", 3, NOW + number)
    assert paces.rate("q", 3, NOW + 20) == pytest.approx(1.0)
    assert paces.rate("q", 3, NOW + 100) == 0.0
    assert paces.rate("other", 3, NOW) == 0.0


def test_a_pace_is_what_the_limits_let_expect_until_some_of_it_was_seen() -> None:
    paces = ReleaseRates()
    assert paces.likely("q", 3, NOW, 7.0) == 7.0
    assert paces.likely("q", 3, NOW, None) is None
    for number in range(4):
        paces.released("q", 3, NOW + number)
    assert paces.likely("q", 3, NOW + 4, 7.0) == 7.0
    assert paces.likely("q", 3, NOW + 4, None) == pytest.approx(1.0)
    paces.released("q", 3, NOW + 4)
    assert paces.likely("q", 3, NOW + 5, 7.0) == pytest.approx(1.0)
    assert paces.likely("q", 3, NOW + 100, 7.0) == 7.0
