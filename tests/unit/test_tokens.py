"""The rule of thumb for tokens."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
