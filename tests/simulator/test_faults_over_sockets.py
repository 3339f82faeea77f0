"""Each fault as a client sees it."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
import urllib3

from simulator.client import SimulatorControl
from simulator.faults import KINDS, Fault
from simulator.latency import Latency
from tests.simulator.calling import KEY, chat_body, exchange, get, hanging, post, until
from tests.simulator.conftest import Upstream

PROMPT = "What is a penstock?"


def faulty(upstream: Upstream, name: str, **fields: Any) -> SimulatorControl:
    return upstream(faults=(Fault(name, **fields),))


def outcomes(simulator: SimulatorControl) -> dict[str, int]:
    """What became of the calls, once none is in flight."""
    until(lambda: simulator.stats()["totals"]["in_flight"] == 0)
    return simulator.stats()["totals"]["outcomes"]


@pytest.mark.parametrize("name", [name for name in KINDS if name.isdecimal()])
def test_a_fault_by_status_answers_that_status(upstream: Upstream, name: str) -> None:
    simulator = faulty(upstream, name)
    answer = post(simulator.url, chat_body())
    assert answer.status == int(name)
    assert "retry-after" not in answer.headers
    if name in ("502", "504"):
        assert answer.data.startswith(b"<html>")
    else:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.json()["simulated"] is True
    assert outcomes(simulator) == {name: 1}
    totals = simulator.stats()["totals"]
    assert (totals["admitted"], totals["succeeded"], totals["bill_micro_usd"]) == (1, 0, 0)


def test_a_429_may_carry_retry_after(upstream: Upstream) -> None:
    assert post(faulty(upstream, "429-retry-after").url, chat_body()).headers["retry-after"] == "1"
    assert post(faulty(upstream, "429", retry_after=30).url, chat_body()).headers["retry-after"] == "30"
    assert post(faulty(upstream, "503", retry_after=0.5).url, chat_body()).headers["retry-after"] == "0.5"


def test_insufficient_quota_is_a_429_with_its_code(upstream: Upstream) -> None:
    answer = post(faulty(upstream, "429-insufficient-quota").url, chat_body())
    assert (answer.status, answer.json()["error"]["code"]) == (429, "insufficient_quota")


def test_a_message_of_ones_own_is_sent(upstream: Upstream) -> None:
    answer = post(faulty(upstream, "503", message="Out for lunch").url, chat_body())
    assert answer.json()["error"]["message"] == "Out for lunch"


def test_a_timeout_never_answers_and_ends_when_the_client_hangs_up(upstream: Upstream) -> None:
    simulator = faulty(upstream, "timeout")
    with hanging(simulator) as connection:
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    assert outcomes(simulator) == {"timeout": 1}
    assert simulator.stats()["totals"]["client_gone"] == 1


def test_a_timeout_with_seconds_closes_without_a_word(upstream: Upstream) -> None:
    assert exchange(faulty(upstream, "timeout", seconds=0.1).url, chat_body()) == b""


def test_a_reset_comes_before_any_byte(upstream: Upstream) -> None:
    simulator = faulty(upstream, "reset")
    with pytest.raises(ConnectionResetError):
        exchange(simulator.url, chat_body())
    assert outcomes(simulator) == {"reset": 1}


@pytest.mark.parametrize("stream", [False, True])
def test_a_reset_in_mid_body_comes_after_half_of_it(upstream: Upstream, stream: bool) -> None:
    simulator = faulty(upstream, "reset-mid-body")
    received = bytearray()
    with pytest.raises(ConnectionResetError):
        exchange(simulator.url, chat_body(stream=stream), into=received)
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body
    assert simulator.stats()["totals"]["bill_micro_usd"] > 0


@pytest.mark.parametrize(("stream", "line"), [(False, b"\n"), (True, b": keep-alive\n\n")])
def test_a_blank_200_holds_only_keep_alive_lines(upstream: Upstream, stream: bool, line: bytes) -> None:
    simulator = faulty(upstream, "blank", seconds=0.5, interval=0.01)
    answer = post(simulator.url, chat_body(stream=stream))
    assert answer.status == 200
    assert answer.data.replace(line, b"") == b""
    assert answer.data.count(line) >= 3
    assert outcomes(simulator) == {"blank": 1}


def test_a_200_may_hold_an_error(upstream: Upstream) -> None:
    answer = post(faulty(upstream, "error-200").url, chat_body())
    assert answer.status == 200
    assert answer.json()["error"]["code"] == "server_busy"


@pytest.mark.parametrize("stream", [False, True])
def test_a_malformed_body_is_complete_and_not_json(upstream: Upstream, stream: bool) -> None:
    answer = post(faulty(upstream, "malformed").url, chat_body(stream=stream))
    assert answer.status == 200
    lines = [line for line in answer.data.decode().split("\n\n") if line]
    with pytest.raises(json.JSONDecodeError):
        json.loads(lines[-1].removeprefix("data: "))


@pytest.mark.parametrize("stream", [False, True])
def test_a_truncated_body_is_shorter_than_it_says(upstream: Upstream, stream: bool) -> None:
    simulator = faulty(upstream, "truncated")
    with pytest.raises(urllib3.exceptions.ProtocolError, match="IncompleteRead"):
        post(simulator.url, chat_body(stream=stream))
    assert outcomes(simulator) == {"truncated": 1}


def test_an_answer_may_lack_its_choices(upstream: Upstream) -> None:
    assert post(faulty(upstream, "no-choices").url, chat_body()).json()["choices"] == []


def test_a_200_may_be_a_web_page(upstream: Upstream) -> None:
    answer = post(faulty(upstream, "wrong-content-type").url, chat_body())
    assert answer.headers["content-type"].startswith("text/html")
    assert b"<html>" in answer.data


@pytest.mark.parametrize(("stream", "line"), [(False, b"\n"), (True, b": keep-alive\n\n")])
def test_keep_alive_lines_come_before_a_good_body(upstream: Upstream, stream: bool, line: bytes) -> None:
    simulator = faulty(upstream, "slow-keep-alive", seconds=0.5, interval=0.01)
    answer = post(simulator.url, chat_body(stream=stream))
    assert answer.data.startswith(line * 3)
    assert simulator.stats()["totals"]["succeeded"] == 1
    if not stream:
        assert answer.json()["choices"][0]["finish_reason"] == "stop"


def test_a_dripping_body_comes_byte_by_byte_and_is_good(upstream: Upstream) -> None:
    simulator = faulty(upstream, "drip", interval=0.0)
    received = exchange(simulator.url, chat_body(), headers="Connection: close\r\n")
    _, _, body = received.partition(b"\r\n\r\n")
    assert body.startswith(b'1\r\n{\r\n1\r\n"\r\n')
    assert simulator.stats()["totals"]["succeeded"] == 1


def test_a_dripping_body_takes_its_time(upstream: Upstream) -> None:
    simulator = faulty(upstream, "drip", interval=30.0)
    with hanging(simulator) as connection:
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            b"".join(iter(lambda: connection.recv(100), b""))
    assert outcomes(simulator) == {"drip": 1}
    assert simulator.stats()["totals"]["succeeded"] == 0


def test_a_huge_body_is_streamed_beyond_any_sensible_size(upstream: Upstream) -> None:
    simulator = faulty(upstream, "huge")
    answer = post(simulator.url, chat_body())
    assert len(answer.data) > 33 * 1024 * 1024
    assert answer.json()["simulated"] is True
    assert outcomes(simulator) == {"huge": 1}


def test_a_huge_body_stops_when_the_client_hangs_up(upstream: Upstream) -> None:
    simulator = faulty(upstream, "huge", size=10**12)
    answer = post(simulator.url, chat_body(), preload_content=False)
    assert len(answer.read(100_000)) == 100_000
    answer.close()
    assert outcomes(simulator) == {"huge": 1}
    assert simulator.stats()["totals"]["client_gone"] == 1


def test_a_filtered_answer_says_so(upstream: Upstream) -> None:
    choice = post(faulty(upstream, "content-filter").url, chat_body()).json()["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("content_filter", "")


def test_an_upstream_may_run_out_of_resources_in_mid_answer(upstream: Upstream) -> None:
    answer = post(faulty(upstream, "no-capacity").url, chat_body()).json()
    assert answer["choices"][0]["finish_reason"] == "insufficient_system_resource"
    assert answer["usage"]["completion_tokens"] < 18


def test_a_slow_answer_takes_a_multiple_of_its_time(upstream: Upstream) -> None:
    simulator = upstream(faults=(Fault("slow", factor=5),), latency=Latency(mean=0.1))
    assert post(simulator.url, chat_body()).status == 200
    (call,) = simulator.log()
    assert call["duration"] >= 0.5
    assert call["outcome"] == "slow"
    assert simulator.stats()["totals"]["succeeded"] == 1


def test_an_error_event_in_mid_stream_raises_in_the_openai_client(upstream: Upstream) -> None:
    simulator = faulty(upstream, "stream-error")
    with openai.OpenAI(base_url=simulator.base_url, api_key=KEY, max_retries=0) as client:
        stream = client.chat.completions.create(
            model="deepseek-flash", messages=[{"role": "user", "content": PROMPT}], stream=True
        )
        text = []
        with pytest.raises(openai.APIError, match="Internal server error"):
            text.extend(chunk.choices[0].delta.content for chunk in stream)
    assert simulator.stats()["totals"]["outcomes"] == {"stream-error": 1}


def test_a_stream_may_be_cut_in_the_middle(upstream: Upstream) -> None:
    simulator = faulty(upstream, "stream-cut")
    received = exchange(simulator.url, chat_body(stream=True))
    assert b"data: {" in received
    assert b"[DONE]" not in received
    assert not received.endswith(b"0\r\n\r\n")
    assert outcomes(simulator) == {"stream-cut": 1}


def test_stream_faults_pass_by_calls_that_do_not_stream(upstream: Upstream) -> None:
    simulator = faulty(upstream, "stream-cut")
    assert post(simulator.url, chat_body()).status == 200
    assert simulator.stats()["totals"]["outcomes"] == {"ok": 1}


def test_a_connection_serves_on_after_a_fault_that_left_it_whole(upstream: Upstream) -> None:
    simulator = upstream(faults=(Fault("malformed", count=1), Fault("503", count=1)))
    headers = {"Authorization": f"Bearer {KEY}"}
    with urllib3.HTTPConnectionPool("127.0.0.1", int(simulator.url.rsplit(":", 1)[1]), maxsize=1) as pool:
        for status in (200, 503, 200):
            body = json.dumps(chat_body()).encode()
            assert pool.urlopen("POST", "/v1/chat/completions", body, headers, retries=False).status == status
        assert pool.num_connections == 1


def test_faults_may_strike_the_balance_page(upstream: Upstream) -> None:
    simulator = faulty(upstream, "401", endpoint="balance")
    assert get(simulator.url, "/user/balance").status == 401
    assert get(simulator.url, "/models").status == 200
    assert post(simulator.url, chat_body()).status == 200


def test_a_fault_may_strike_one_key_alone(upstream: Upstream) -> None:
    keys = {"sk-alice": "acme", "sk-bob": "acme"}
    simulator = upstream(keys=keys, faults=(Fault("401", key="sk-alice"),))
    assert [post(simulator.url, chat_body(), key=key).status for key in keys] == [401, 200]


def test_a_schedule_follows_the_clock_that_a_test_starts(upstream: Upstream) -> None:
    simulator = faulty(upstream, "503", from_seconds=1000, until_seconds=2000)
    assert post(simulator.url, chat_body()).status == 200
    simulator.start_clock(1000)
    assert post(simulator.url, chat_body()).status == 503
    simulator.start_clock(2000)
    assert post(simulator.url, chat_body()).status == 200
    simulator.start_clock()
    assert simulator.stats()["clock_seconds"] < 10
