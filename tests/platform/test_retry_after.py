"""Retry-After in all its forms."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.platform.domain.times import LONGEST_SECONDS, retry_after_seconds
from tests.attempts import NOW

EARLIER = "Mon, 21 Sep 2026 14:13:10 GMT"
LATER = "Mon, 21 Sep 2026 14:13:20 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "0"}, None),
        ({"retry-after-ms": "0"}, None),
        ({"retry-after-ms": "0", "retry-after": "9"}, 9.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "99999999"}, LONGEST_SECONDS),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9.0),
        ({"retry-after": LATER, "date": EARLIER}, 10.0),
        ({"retry-after": EARLIER, "date": LATER}, None),
        ({"retry-after": "Mon, 99 Foo"}, None),
    ],
)
def test_every_form_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers, NOW) == seconds


def test_a_date_without_the_answers_own_date_counts_from_now() -> None:
    assert retry_after_seconds({"retry-after": "Mon, 21 Sep 2026 14:13:22 GMT"}, 1790000000.0) == 2.0


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_whatever_stands_there_the_wait_is_sane_or_none(asked: str, milliseconds: str, date: str) -> None:
    headers = {"retry-after": asked, "retry-after-ms": milliseconds, "date": date}
    seconds = retry_after_seconds(headers, NOW)
    assert seconds is None or (math.isfinite(seconds) and 0 < seconds <= LONGEST_SECONDS)
