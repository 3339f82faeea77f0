"""The rule of thumb for tokens."""

import math
import random
from collections import deque

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pacing.domain.tokens import (
    DEFAULT_ANSWER,
    OPEN_ANSWER,
    PER_MEDIA,
    TokenBook,
    TokenLearner,
    TokensUsed,
    asked_for,
    estimate,
    prompt_tokens,
    text_tokens,
)
from app.settings.domain.routing import ConfiguredQuota, token_bucket
from simulator.requests import ServedModel, read_chat_request

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


MESSAGES = [{"role": USER, "content": "a" * 100}]


@pytest.mark.parametrize(
    ("parameters", "answers"),
    [
        ({}, DEFAULT_ANSWER),
        ({"max_tokens": None}, DEFAULT_ANSWER),
        ({"max_tokens": -1}, DEFAULT_ANSWER),
        ({"max_tokens": 0}, DEFAULT_ANSWER),
        ({"max_tokens": True}, DEFAULT_ANSWER),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 5.0}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7),
        ({"max_completion_tokens": 1, "max_tokens": 3000}, 3000),
        ({"max_tokens": 5, "n": 3}, 15),
        ({"max_tokens": 5, "n": 2, "best_of": 4}, 20),
        ({"n": 128}, 128 * DEFAULT_ANSWER),
    ],
)
def test_answers_count_by_the_larger_limit_times_their_number(
    parameters: dict[str, object], answers: int
) -> None:
    assert estimate(MESSAGES, parameters) == math.ceil(104 * 0.3) + answers
    asked = asked_for(parameters)
    assert asked == answers or (asked == 0 and answers == DEFAULT_ANSWER), "what learning takes it apart by"


def test_an_open_answer_counts_as_long_as_the_caller_says() -> None:
    assert estimate(MESSAGES, {}, OPEN_ANSWER) == estimate(MESSAGES, {}) + OPEN_ANSWER - DEFAULT_ANSWER
    assert estimate(MESSAGES, {"max_tokens": 5}, OPEN_ANSWER) == estimate(MESSAGES, {"max_tokens": 5})


JUNK = "some words " * 1000
DATA = "QUJD" * 500_000  # 2 MB


@pytest.mark.parametrize(
    "parameters",
    [
        {"tools": [{"type": "function", "function": {"name": "f", "description": JUNK}}]},
        {"functions": [{"name": JUNK}]},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {JUNK: {}}}}},
        {"prediction": {"type": "content", "content": JUNK}},
        {"stop": [JUNK]},
        {"something_new": JUNK},
        {JUNK: 1},
        {"user": JUNK},
        {"tool_choice": {"function": {"name": JUNK}}},
        {"temperature": {"x": JUNK}},
        {"something_new": list(range(3000))},
    ],
)
def test_whatever_may_be_read_as_prompt_counts(parameters: dict[str, object]) -> None:
    assert prompt_tokens(MESSAGES, parameters) >= prompt_tokens(MESSAGES, {}) + 3000


@pytest.mark.parametrize(
    "message",
    [
        {"role": JUNK, "content": "x"},
        {"role": USER, "content": "x", "name": JUNK},
        {"role": USER, "content": "x", JUNK: None},
        {"role": USER, "content": [{"type": "image_url", "image_url": {"url": JUNK}}]},
        {"role": USER, "content": [{"type": "image_url", "image_url": {"url": f"data:image/png,{JUNK}"}}]},
        {
            "role": USER,
            "content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,QQ== {JUNK}"}}],
        },
        {"role": USER, "content": [{"type": "image_url", "image_url": {"url": "https://x/", "junk": JUNK}}]},
        {"role": USER, "content": [{"type": "file", "file": {"file_data": JUNK}}]},
        {"role": USER, "content": f"data:image/png;base64,QUJD {JUNK}"},
        {"role": USER, "content": "data:image/png;base64,a\n" + JUNK.replace(" ", "\n")},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": JUNK}}]},
    ],
)
def test_nothing_hides_in_a_message(message: dict[str, object]) -> None:
    assert prompt_tokens([message], {}) >= 3000


@pytest.mark.parametrize(
    "part",
    [
        {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{DATA}", "filename": "a.pdf"}},
        {"type": "file", "file": {"file_data": DATA}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DATA}"}},
        {"type": "image_url", "image_url": f"data:image/svg+xml;charset=utf-8;base64,{DATA}"},
        {"type": "image_url", "image_url": {"url": "https://pictures.example/1.png"}},
        {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{DATA}"}},
        {"type": "input_audio", "input_audio": {"data": DATA, "format": "wav"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}},
        {"type": "file", "file": {"file_id": "file_1"}},
        {"type": "text", "text": f"![a picture](data:image/png;base64,{DATA})"},
        {"type": "text", "text": f"a letter: data:text/plain;charset=utf-8;base64,{DATA}"},
        {"type": "text", "text": f"a font: DATA:font/woff2;BASE64,{DATA}"},
        {"type": "text", "text": f'a table: data:application/vnd.ms-excel;name="a b.xls";base64,{DATA}'},
        {"type": "text", "text": f"no type: data:;base64,{DATA}"},
        {"type": "image_url", "image_url": {"url": DATA}},
        {"type": "image", "image": DATA},
    ],
)
def test_an_image_or_a_file_counts_a_fixed_figure_however_long_its_data_is(part: dict[str, object]) -> None:
    one, two = (prompt_tokens([{"role": USER, "content": [part] * count}], {}) for count in (1, 2))
    assert PER_MEDIA <= one < PER_MEDIA + 50
    assert 2 * PER_MEDIA <= two < 2 * PER_MEDIA + 100


def test_settings_are_no_prompt() -> None:
    plain = {
        "temperature": 0.5,
        "seed": 7,
        "reasoning_effort": "high",
        "stream": False,
        "tool_choice": "auto",
    }
    assert prompt_tokens(MESSAGES, plain) == prompt_tokens(MESSAGES, {})


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


FIELDS = st.sampled_from(
    ["tools", "n", "best_of", "stop", "response_format", "image_url", "data", "user", "temperature", "x"]
)


@given(
    st.lists(st.dictionaries(st.text(max_size=8), JSON, max_size=4), max_size=3),
    st.dictionaries(FIELDS | st.text(max_size=8), JSON, max_size=5),
    st.dictionaries(FIELDS | st.text(max_size=8), JSON, max_size=5),
)
def test_adding_fields_never_lowers_the_estimate(
    messages: list[dict[str, object]], some: dict[str, object], more: dict[str, object]
) -> None:
    """But for limits of the answer, which are there to lower it."""
    limits = ("max_tokens", "max_completion_tokens")
    some = {name: value for name, value in some.items() if name not in limits}
    assert estimate(messages, {**more, **some}) >= estimate(messages, some)
    grown = [{**more, **message} for message in messages]
    assert estimate(grown, some) >= estimate(messages, some)
    assert estimate([*messages, more], some) >= estimate(messages, some)


@given(
    st.lists(st.text(max_size=60), min_size=1, max_size=4),
    st.integers(1, 500),
    st.sampled_from(["max_tokens", "max_completion_tokens"]),
)
def test_the_estimate_of_a_capped_answer_covers_what_the_simulator_bills(
    texts: list[str], limit: int, name: str
) -> None:
    messages = [{"role": USER, "content": text} for text in texts]
    body = orjson.dumps({"model": "m", "messages": messages, name: limit})
    request = read_chat_request(body, {"m": ServedModel()}, 404)
    assert request.max_tokens == limit
    assert estimate(messages, {name: limit}) >= request.prompt_tokens + limit


def test_a_plain_message_counts_as_one_that_is_searched() -> None:
    plain = [{"role": USER, "content": "some words"}]
    assert estimate(plain, {}) == estimate([{**plain[0], "name": None}], {})


def _learnt(pairs: list[tuple[int, int]], answers: list[int] | None = None) -> TokenLearner:
    estimator = TokenLearner()
    for estimated, real in pairs:
        estimator.saw(estimated, real, 0, 0)
    for answer in answers or []:
        estimator.saw(0, 0, answer, 0)
    return estimator


def test_before_anything_is_known_the_rule_of_thumb_stands() -> None:
    estimator = _learnt([(100, 400)] * 4, [9] * 4)
    assert estimator.reserve(100 + DEFAULT_ANSWER, 0) == 100 + DEFAULT_ANSWER
    assert estimator.reserve(130, 30) == 130


def test_a_prompt_is_corrected_by_the_measured_ratio_and_what_it_is_off_by() -> None:
    steady = _learnt([(100, 80), (1000, 800)] * 100)
    assert steady.ratio == pytest.approx(0.8)
    assert steady.reserve(1000 + 50, 50) in (850, 851)
    unsteady = _learnt([(100, 60), (100, 100)] * 100)
    assert 870 < unsteady.reserve(1000 + 50, 50) < 1000


def test_an_open_answer_reserves_the_95th_percentile_of_the_last_ones() -> None:
    estimator = _learnt([], [10_000] * 50 + list(range(1, 201)))
    assert estimator.answer() == 190
    assert estimator.reserve(7 + DEFAULT_ANSWER, 0) == 7 + 190
    estimator.saw(0, 0, 5_000, 5_000)  # it may have been cut off by the limit that was asked for
    assert estimator.answer() == 190


@given(
    st.floats(0.2, 4.0),
    st.floats(0.0, 0.4),
    st.lists(st.tuples(st.integers(20, 5_000), st.floats(-1.0, 1.0)), min_size=60, max_size=120),
)
def test_what_is_reserved_covers_what_is_used_on_the_whole(
    ratio: float, spread: float, calls: list[tuple[int, float]]
) -> None:
    """Single calls may take more, which is debited at once; all together they do not, once some were seen."""
    estimator, reserved, used = TokenLearner(), 0, 0
    for number, (estimated, luck) in enumerate(calls):
        real = max(1, round(estimated * ratio * (1 + spread * luck)))
        if number >= 30:
            reserved += estimator.reserve(estimated + 10, 10) - 10
            used += real
        estimator.saw(estimated, real, 10, 10)
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
    """The pacing store's rule on a virtual clock: reserve, then settle on what was used when the call ends."""
    told, chance = 60_000, random.Random(7)
    bucket = token_bucket(ConfiguredQuota("q", tpm=told))
    assert bucket is not None
    estimator, level, sent, ends = (
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
            estimator.saw(estimated, used - 20, 20, 0)
        estimated = chance.randint(50, 500)
        reserved = estimator.reserve(estimated + DEFAULT_ANSWER, 0)
        if level >= min(reserved, bucket.size):
            used = round(estimated * ratio * chance.uniform(0.9, 1.1)) + 20
            level -= reserved
            sent.append((at, used))
            ends.append((at + 2.0, reserved, estimated, used))
    settled = [one for one in sent if one[0] > 60]
    assert _in_sixty_seconds(settled) <= told
    assert _in_sixty_seconds(settled) >= 0.9 * told
