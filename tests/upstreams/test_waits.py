"""Where answers say how long to wait."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.platform.domain.times import LONGEST_SECONDS
from app.upstreams.domain.classify import classify
from tests.attempts import NOW, PROFILE, a_reply


def asked(body: Any, status: int = 429, **headers: str) -> float | None:
    reply = a_reply(status, body, **headers)
    return classify(reply, model="m", now=NOW, parse=orjson.loads, profile=PROFILE).retry_after_seconds


def said(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "8s"}


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ([{"error": {"code": 429, "message": "Quota exceeded.", "details": [INFO]}}], 8.0),
        (
            {
                "error": {
                    "message": "Quota exceeded.",
                    "details": [{"a": 1}, {**INFO, "retryDelay": "38.809539s"}],
                }
            },
            38.809539,
        ),
        (
            {
                "error": {
                    "message": "later",
                    "details": [{**INFO, "retryDelay": {"seconds": 8, "nanos": 500000000}}],
                }
            },
            8.5,
        ),
        (said(json.dumps({"error": {"message": "Quota", "details": [INFO]}})), 8.0),
        ({"error": "Model x is currently loading", "estimated_time": 20.5}, 20.5),
        ({"error": {"message": "slow", "retry_after": 4}}, 4.0),
        ({"error": {"message": "slow", "metadata": {"retryAfterMs": 2500}}}, 2.5),
        ({"error": {"message": "slow", "metadata": {"headers": {"Retry-After": "7"}}}}, 7.0),
        (
            {
                "error": {
                    "message": "slow",
                    "metadata": {"headers": {"X-RateLimit-Reset": str(int(NOW * 1000) + 9000)}},
                }
            },
            9.0,
        ),
        (said("Please retry in 8s."), 8.0),
        (said("Please retry in 38.809539352s."), 38.809539352),
        (
            said(
                "Rate limit reached for m on tokens per min (TPM): Limit 3, Used 2. Please try again in 1m3.5s. Visit"
            ),
            63.5,
        ),
        (said("Please try again in 120ms."), 0.12),
        (said("Please try again in 7m12s."), 432.0),
        (said("your request reached max request: 3, please try again after 1 seconds"), 1.0),
        (said("Requests to the API have exceeded the call rate limit. Please retry after 26 seconds."), 26.0),
        (said("No deployments available for selected model, Try again in 60 seconds. Passed model=x"), 60.0),
        (said("Rate limited, wait about 30 seconds"), 30.0),
        (said("Too many requests. Retry-After: 12"), 12.0),
        (said("请求过于频繁，请在8秒后重试"), 8.0),
        (said("请求过于频繁，请 8 秒后再试"), 8.0),
        (said("触发限流，请等待1分钟30秒"), 90.0),
        (said("請在 8 秒後重試"), 8.0),
        (said("Slow down"), None),
        (said("Try again in a moment"), None),
        (said("You wrote 8s too often"), None),
        (said("Please try again in 0s"), None),
        ({"error": {"message": "slow", "retry_after": -4}}, None),
        ({"error": {"message": "slow", "retry_after": True}}, None),
        ("Rate limited. Try again in 5 minutes", 300.0),
        (b"<html><title>Too many requests, retry in 3 s</title></html>", 3.0),
    ],
)
def test_a_wait_in_a_body_is_read(body: Any, seconds: float | None) -> None:
    assert asked(body) == seconds


@pytest.mark.parametrize(
    "at", ["2026-09-21 14:13:30 UTC", "2026-09-21T14:13:30Z", "2026-09-21 22:13:30+08:00"]
)
def test_an_instant_in_a_message_is_read(at: str) -> None:
    assert asked(said(f"Limit reached. Limit resets at {at}.")) == pytest.approx(10, abs=1.5)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "5"}, 5.0),
        ({"retry_after": "5s"}, 5.0),
        ({"x_ms_retry_after_ms": "1500"}, 1.5),
        ({"retry_after": "0", "x_ratelimit_reset": "9"}, 9.0),
        ({"x_ratelimit_remaining_requests": "0", "x_ratelimit_reset_requests": "6m0s"}, 360.0),
        ({"x_ratelimit_remaining_requests": "9", "x_ratelimit_reset_requests": "6m0s"}, None),
        (
            {
                "x_ratelimit_remaining_requests": "9",
                "x_ratelimit_reset_requests": "6m0s",
                "x_ratelimit_remaining_tokens": "0",
                "x_ratelimit_reset_tokens": "7.5s",
            },
            7.5,
        ),
        ({"x_ratelimit_reset": str(int(NOW) + 12)}, 12.0),
        ({"x_ratelimit_reset": str(int(NOW) - 12)}, None),
    ],
)
def test_a_wait_in_headers_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert asked(said("slow"), **headers) == seconds


def test_a_header_goes_before_the_body_and_the_body_before_its_words() -> None:
    body = {"error": {"message": "retry in 9s", "details": [INFO]}}
    assert asked(body, retry_after="3") == 3
    assert asked(body) == 8
    assert asked(body, retry_after="0") == 8


def test_what_a_text_asks_for_is_bounded() -> None:
    assert asked(said("try again in 40 days")) == 600
    assert asked({"error": {"message": "slow", "retry_after": 1e9}}) == LONGEST_SECONDS


@given(st.text(max_size=60), st.text(max_size=20))
def test_whatever_stands_there_a_wait_is_sane(words: str, delay: str) -> None:
    body = {
        "error": {
            "message": f"try again in {words}",
            "details": [{"retryDelay": delay}],
            "headers": {words: delay},
        }
    }
    seconds = asked(body)
    assert seconds is None or 0 < seconds <= LONGEST_SECONDS
