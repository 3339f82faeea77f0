"""Limits as callers meet them, and the ledger's account of it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from simulator.client import SimulatorControl
from simulator.latency import Latency
from simulator.limits import Limit
from tests.simulator.calling import KEY, chat_body, hanging, post, post_many, until
from tests.simulator.conftest import Upstream

HELD: dict[str, Any] = {"slots": 0, "keep_alive_seconds": 60.0}
KEYS = {"sk-alice": "acme", "sk-bob": "acme", "sk-stranger": "other"}


def statuses(simulator: SimulatorControl, count: int, key: str = KEY) -> list[int]:
    return [status for status, _ in post_many(simulator.url, [chat_body()] * count, key)]


def at_once(simulator: SimulatorControl, calls: dict[str, int]) -> list[list[int]]:
    """So many calls of each key, all in flight before the first is answered: the statuses by key.

    The simulator must have been told to hold them.
    """
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(statuses, simulator, count, key) for key, count in calls.items()]
        until(lambda: simulator.stats()["totals"]["received"] == sum(calls.values()))
        simulator.configure(slots=None)
        return [one.result() for one in waiting]


def test_requests_per_minute_let_the_burst_through_and_refuse_the_rest(upstream: Upstream) -> None:
    simulator = upstream(limits=(Limit(key="*", rpm=60, burst_seconds=10),))
    answered = statuses(simulator, 40)
    totals = simulator.stats()["totals"]
    # 10 in the bucket, and at most one a second while they came in.
    assert 10 <= answered.count(200) <= 20
    assert totals["admitted"] == answered.count(200)
    assert totals["refused"] == {"rpm": answered.count(429)}


def test_tokens_per_minute_are_drawn_by_prompt_and_answer(upstream: Upstream) -> None:
    # Each call counts 6 + 18 tokens, the bucket holds 100, and 6 a minute hardly refill it.
    simulator = upstream(limits=(Limit(key="*", tpm=6, burst_seconds=1000),))
    assert sorted(statuses(simulator, 8)) == [200] * 4 + [429] * 4
    assert simulator.stats()["totals"]["refused"] == {"tpm": 4}
    assert simulator.quota(key=KEY)["max_tokens_60s"] == 4 * 24


def test_reserved_tokens_count_max_tokens(upstream: Upstream) -> None:
    simulator = upstream(limits=(Limit(key="*", tpm=6, burst_seconds=1000),), tokens_counted="reserved")
    body = chat_body(max_tokens=94)
    assert [post(simulator.url, body).status for _ in range(2)] == [200, 429]


def test_calls_at_once_are_bounded_per_account_whatever_the_key(upstream: Upstream) -> None:
    simulator = upstream(keys=KEYS, limits=(Limit(account="*", concurrency=5),), **HELD)
    alice, bob, stranger = at_once(simulator, dict.fromkeys(KEYS, 8))
    assert (alice + bob).count(200) == 5
    assert stranger.count(200) == 5
    assert simulator.quota(account="acme")["max_in_flight"] == 5
    assert simulator.stats()["totals"]["refused"] == {"concurrency": 14}


def test_a_place_is_free_again_when_its_call_is_answered(upstream: Upstream) -> None:
    simulator = upstream(limits=(Limit(key="*", concurrency=1),))
    assert [post(simulator.url, chat_body()).status for _ in range(20)] == [200] * 20


def test_a_client_that_hangs_up_gives_its_place_back(upstream: Upstream) -> None:
    simulator = upstream(limits=(Limit(key="*", concurrency=1),), latency=Latency(mean=60))
    with hanging(simulator):
        pass
    until(lambda: simulator.stats()["totals"]["in_flight"] == 0)
    simulator.configure(latency=0)
    assert post(simulator.url, chat_body()).status == 200
    totals = simulator.stats()["totals"]
    assert totals["outcomes"] == {"client_gone": 1, "ok": 1}
    assert (totals["client_gone"], totals["succeeded"]) == (1, 1)


@pytest.mark.parametrize("style", ["none", "seconds", "date", "ms"])
def test_a_refusal_says_when_to_come_again_in_the_style_of_its_limit(upstream: Upstream, style: str) -> None:
    simulator = upstream(limits=(Limit(key="*", rpm=6, retry_after=style),))
    post(simulator.url, chat_body())
    refused = post(simulator.url, chat_body())
    assert refused.status == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    after, after_ms = refused.headers.get("retry-after"), refused.headers.get("retry-after-ms")
    assert (after is None, after_ms is None) == (style in ("none", "ms"), style != "ms")
    if style == "seconds":
        assert 8 <= int(after) <= 10
    if style == "ms":
        assert 8_000 <= int(after_ms) <= 10_000
    if style == "date":
        assert 7 <= parsedate_to_datetime(after).timestamp() - time.time() <= 11


def test_rate_limit_headers_tell_the_tightest_buckets(upstream: Upstream) -> None:
    wide, tight = Limit(account="*", rpm=6000), Limit(key="*", rpm=600, tpm=60_000)
    simulator = upstream(limits=(wide, tight), ratelimit_headers=True)
    headers = post(simulator.url, chat_body()).headers
    assert headers["x-ratelimit-limit-requests"] == "600"
    assert headers["x-ratelimit-remaining-requests"] == "19"
    assert headers["x-ratelimit-limit-tokens"] == "60000"
    assert headers["x-ratelimit-remaining-tokens"] == str(2000 - 24)
    assert headers["x-ratelimit-reset-requests"].endswith("s")


def test_without_limits_the_ledger_still_knows_how_hard_a_quota_was_pressed(upstream: Upstream) -> None:
    simulator = upstream(keys=KEYS, **HELD)
    at_once(simulator, {"sk-alice": 7, "sk-bob": 3})
    account = simulator.quota(account="acme", model="deepseek-flash")
    assert account["max_admitted_60s"] == account["max_received_60s"] == 10
    assert account["max_in_flight"] == 10
    assert simulator.quota(key="sk-alice")["max_in_flight"] == 7
    assert simulator.quota(key="sk-stranger")["max_admitted_60s"] == 0


@pytest.mark.parametrize(("stream", "line"), [(False, b"\n"), (True, b": keep-alive\n\n")])
def test_a_call_that_waits_for_a_slot_gets_keep_alive_lines_and_then_its_answer(
    upstream: Upstream, stream: bool, line: bytes
) -> None:
    simulator = upstream(slots=0, keep_alive_seconds=0.02)
    answer = post(simulator.url, chat_body(stream=stream), preload_content=False)
    lines = answer.read(3 * len(line))
    assert lines == line * 3
    simulator.configure(slots=1)
    body = answer.read().lstrip(line)
    assert body.startswith(b"data: {" if stream else b"{")
    assert simulator.stats()["totals"]["outcomes"] == {"ok": 1}


def test_slots_are_given_in_the_order_of_waiting(upstream: Upstream) -> None:
    simulator = upstream(**HELD, latency=Latency(mean=0.02))
    with ThreadPoolExecutor() as pool:
        for number in range(1, 5):
            pool.submit(post, simulator.url, chat_body(f"number {number}"))
            until(lambda n=number: simulator.stats()["totals"]["in_flight"] == n)
        simulator.configure(slots=1)
    ends = [call["arrived_at"] + call["duration"] for call in simulator.log()]
    assert ends == sorted(ends)


def test_a_call_that_waits_too_long_for_a_slot_is_closed_without_an_answer(upstream: Upstream) -> None:
    simulator = upstream(slots=0, keep_alive_seconds=0.05, slot_wait_seconds=0.2)
    with pytest.raises(Exception, match=r"IncompleteRead|broken"):
        post(simulator.url, chat_body())
    assert simulator.stats()["totals"]["outcomes"] == {"slot_timeout": 1}
