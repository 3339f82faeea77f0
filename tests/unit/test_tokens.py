"""The rule of thumb for tokens."""

import math
import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.quota import Quota, token_bucket
from app.domain.token_learner import TokenBook, TokenLearner, TokensUsed
from app.domain.tokens import DEFAULT_ANSWER, estimate, text_tokens

USER = "user"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("a" * 10, 3),
        ("汉" * 10, 6),
        ("汉字，，", 2.4),  # full-width punctuation counts as Chinese
        ("ab汉字", 1.8),
        ("ひらがな한국", 3.6),
        ("𠀀", 0.6),  # beyond the basic plane
        ("éüñ", 0.9),
    ],
)
def test_english_counts_three_tenths_and_chinese_six_tenths(text: str, tokens: float) -> None:
    assert text_tokens(text) == pytest.approx(tokens)


def test_the_answer_is_what_the_request_allows_or_512() -> None:
    messages = [{"role": USER, "content": "a" * 100}]
    assert estimate(messages, {}) == 30 + DEFAULT_ANSWER == 542
    assert estimate(messages, {"max_tokens": 5}) == 35
    assert estimate(messages, {"max_tokens": 5, "max_completion_tokens": 7}) == 37
    assert estimate(messages, {"max_tokens": None}) == 542


def test_texts_inside_parts_and_tools_count_but_images_do_not() -> None:
    image = {"type": "x", "image_url": {"url": "data:" + "a" * 10_000}}
    text = {"text": "a" * 10}
    tool = {"function": {"description": "b" * 20}}
    counted = estimate([{"role": USER, "content": [text, image]}], {"tools": [tool], "max_tokens": 1})
    assert counted == math.ceil((10 + 1 + 20) * 0.3) + 1


@given(st.text(max_size=200), st.text(max_size=200))
def test_a_longer_text_never_has_fewer_tokens(one: str, other: str) -> None:
    assert text_tokens(one + other) == pytest.approx(text_tokens(one) + text_tokens(other))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.lists(st.dictionaries(st.text(max_size=8), JSON, max_size=4), max_size=4),
    st.dictionaries(st.text(), JSON),
)
def test_any_json_has_an_estimate_of_at_least_one(
    messages: list[dict[str, object]], rest: dict[str, object]
) -> None:
    assert estimate(messages, rest) >= 1


def test_a_plain_message_counts_as_one_that_is_searched() -> None:
    plain = [{"role": USER, "content": "some words"}]
    assert estimate(plain, {}) == estimate([{**plain[0], "name": None}], {})


def _learnt(pairs: list[tuple[int, int]], answers: list[int] | None = None) -> TokenLearner:
    learner = TokenLearner()
    for estimated, real in pairs:
        learner.saw(estimated, real, 0, 0)
    for answer in answers or []:
        learner.saw(0, 0, answer, 0)
    return learner


def test_before_anything_is_known_the_rule_of_thumb_stands() -> None:
    learner = _learnt([(100, 400)] * 4, [9] * 4)
    assert learner.reserve(100 + DEFAULT_ANSWER, 0) == 100 + DEFAULT_ANSWER
    assert learner.reserve(130, 30) == 130


def test_a_prompt_is_corrected_by_the_measured_ratio_and_what_it_is_off_by() -> None:
    steady = _learnt([(100, 80), (1000, 800)] * 100)
    assert steady.ratio == pytest.approx(0.8)
    assert steady.reserve(1000 + 50, 50) in (850, 851)
    unsteady = _learnt([(100, 60), (100, 100)] * 100)
    assert 870 < unsteady.reserve(1000 + 50, 50) < 1000


def test_an_open_answer_reserves_the_95th_percentile_of_the_last_ones() -> None:
    learner = _learnt([], [10_000] * 50 + list(range(1, 201)))
    assert learner.answer() == 190
    assert learner.reserve(7 + DEFAULT_ANSWER, 0) == 7 + 190
    learner.saw(0, 0, 5_000, 5_000)  # it may have been cut off by the limit that was asked for
    assert learner.answer() == 190


@given(
    st.floats(0.2, 4.0),
    st.floats(0.0, 0.4),
    st.lists(st.tuples(st.integers(20, 5_000), st.floats(-1.0, 1.0)), min_size=60, max_size=120),
)
def test_what_is_reserved_covers_what_is_used_on_the_whole(
    ratio: float, spread: float, calls: list[tuple[int, float]]
) -> None:
    """Single calls may take more, which is debited at once; all together they do not, once some were seen."""
    learner, reserved, used = TokenLearner(), 0, 0
    for number, (estimated, luck) in enumerate(calls):
        real = max(1, round(estimated * ratio * (1 + spread * luck)))
        if number >= 30:
            reserved += learner.reserve(estimated + 10, 10) - 10
            used += real
        learner.saw(estimated, real, 10, 10)
    assert reserved >= used * 0.8
    assert reserved <= used * 2 * (1 + spread) + len(calls)


@given(
    st.integers(1, 10**6), st.integers(0, 10**6), st.lists(st.tuples(st.integers(1, 9), st.integers(1, 99)))
)
def test_a_reservation_is_positive_and_leaves_room_for_what_was_asked(
    prompt: int, asked: int, seen: list[tuple[int, int]]
) -> None:
    reserved = _learnt(seen).reserve(prompt + (asked or DEFAULT_ANSWER), asked)
    assert reserved >= max(1, asked)


def test_what_was_learned_survives() -> None:
    book = TokenBook()
    for number in range(9):
        book.saw(TokensUsed("m", 100 + DEFAULT_ANSWER, 0, 70 + number, 40 + number))
    again = TokenBook()
    again.recall({"account:a:m": {"cap": 3}, **book.facts()})
    assert again.models["m"].reserve(612, 0) == book.models["m"].reserve(612, 0) < 200


def _in_sixty_seconds(sent: list[tuple[float, int]]) -> int:
    """The most tokens in any 60 s."""
    most, first, total = 0, 0, 0
    for at, tokens in sent:
        total += tokens
        while sent[first][0] <= at - 60:
            total -= sent[first][1]
            first += 1
        most = max(most, total)
    return most


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.8])
def test_a_minute_never_holds_more_tokens_than_told_once_a_model_is_known(ratio: float) -> None:
    """The gate's own rule on a virtual clock: reserve, then settle on what was used when the call ends 2 s later."""
    told, chance = 60_000, random.Random(7)
    bucket = token_bucket(Quota("q", tpm=told))
    assert bucket is not None
    learner, level, sent, ends = (
        TokenLearner(),
        0.0,
        list[tuple[float, int]](),
        deque[tuple[float, int, int, int]](),
    )
    for tick in range(24_000):
        at = tick / 100
        level = bucket.filled(level, 0.01)
        while ends and ends[0][0] <= at:
            _, reserved, estimated, used = ends.popleft()
            level = min(bucket.size, level + reserved - used)
            learner.saw(estimated, used - 20, 20, 0)
        estimated = chance.randint(50, 500)
        reserved = learner.reserve(estimated + DEFAULT_ANSWER, 0)
        if level >= min(reserved, bucket.size):
            used = round(estimated * ratio * chance.uniform(0.9, 1.1)) + 20
            level -= reserved
            sent.append((at, used))
            ends.append((at + 2.0, reserved, estimated, used))
    settled = [one for one in sent if one[0] > 60]
    assert _in_sixty_seconds(settled) <= told
    assert _in_sixty_seconds(settled) >= 0.9 * told
