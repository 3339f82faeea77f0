"""The wire, as the official OpenAI client and a plain HTTP client see it."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from hashlib import sha256

import openai
import pytest

from simulator.client import SimulatorControl
from simulator.config import Account
from simulator.faults import Fault
from simulator.requests import ServedModel
from tests.simulator.calling import KEY, chat_body, connected, exchange, get, head, post, until
from tests.simulator.conftest import Upstream

MESSAGES = [{"role": "user", "content": "What is a penstock?"}]


def openai_client(simulator: SimulatorControl, key: str = KEY) -> openai.OpenAI:
    return openai.OpenAI(base_url=simulator.base_url, api_key=key, max_retries=0, timeout=60)


def test_the_openai_client_gets_a_completion(upstream: Upstream) -> None:
    with openai_client(upstream()) as client:
        answer = client.chat.completions.create(model="deepseek-flash", messages=MESSAGES)
    assert answer.choices[0].message.content == "This is a simulated answer. You said: What is a penstock?"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model_extra is not None
    assert answer.model_extra["simulated"] is True
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, 18)


def test_usage_has_every_field_of_deepseeks(upstream: Upstream) -> None:
    body = chat_body(MESSAGES[0]["content"], thinking={"type": "enabled"})
    answer = post(upstream().url, body).json()
    assert answer["usage"] == {
        "prompt_tokens": 6,
        "completion_tokens": 28,
        "total_tokens": 34,
        "prompt_cache_hit_tokens": 0,
        "prompt_cache_miss_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 10},
    }
    assert answer["choices"][0]["message"]["reasoning_content"] == "The question is short; answer it."
    assert answer["object"] == "chat.completion"


def test_the_openai_client_streams_an_answer_with_usage(upstream: Upstream) -> None:
    with openai_client(upstream()) as client:
        stream = client.chat.completions.create(
            model="deepseek-flash", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == "This is a simulated answer. You said: What is a penstock?"
    assert len(chunks) > 5
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [24]
    assert chunks[-1].choices == []


def test_a_streamed_answer_comes_at_its_pace(upstream: Upstream) -> None:
    simulator = upstream(tokens_per_second=100.0, answer_tokens=40)
    with openai_client(simulator) as client:
        list(client.chat.completions.create(model="deepseek-flash", messages=MESSAGES, stream=True))
    (call,) = simulator.log()
    assert call["duration"] >= 0.4


@pytest.mark.parametrize(
    ("change", "error", "status"),
    [
        ({"model": "gpt-4o"}, openai.BadRequestError, 400),
        ({"messages": []}, openai.BadRequestError, 400),
        ({"max_tokens": 10**9}, openai.BadRequestError, 400),
        ({"messages": [{"role": "user", "content": "x" * 9000}]}, openai.BadRequestError, 400),
        ({"messages": [{"role": "user"}]}, openai.UnprocessableEntityError, 422),
    ],
)
def test_the_openai_client_raises_its_typed_errors(
    upstream: Upstream, change: dict[str, object], error: type[openai.APIStatusError], status: int
) -> None:
    simulator = upstream(models={"deepseek-flash": ServedModel(context_tokens=2000)})
    with openai_client(simulator) as client, pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": "deepseek-flash", "messages": MESSAGES, **change})
    assert caught.value.status_code == status
    assert caught.value.code == "invalid_request_error"
    assert simulator.stats()["totals"]["admitted"] == 0


def test_an_unknown_key_is_refused_and_never_told_back(upstream: Upstream) -> None:
    simulator = upstream()
    with (
        openai_client(simulator, "sk-somebody-elses") as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.chat.completions.create(model="deepseek-flash", messages=MESSAGES)
    assert "somebody" not in str(caught.value)
    stats = simulator.stats()
    assert stats["totals"]["rejected"] == {"unauthorized": 1}
    assert "somebody" not in json.dumps(stats)


def test_an_open_account_lets_strangers_in_by_a_digest(upstream: Upstream) -> None:
    simulator = upstream(open_account="anyone")
    assert post(simulator.url, chat_body(), key="sk-somebody-elses").status == 200
    stats = simulator.stats()
    assert stats["accounts"]["anyone"]["admitted"] == 1
    assert "somebody" not in json.dumps(stats)


def test_an_unknown_model_may_be_a_404(upstream: Upstream) -> None:
    simulator = upstream(unknown_model_status=404)
    answer = post(simulator.url, {**chat_body(), "model": "gpt-4o"})
    assert answer.status == 404
    assert answer.json()["error"]["code"] == "model_not_found"


def test_models_are_listed(upstream: Upstream) -> None:
    with openai_client(upstream()) as client:
        assert [model.id for model in client.models.list()] == ["deepseek-flash", "deepseek-v4-pro"]


def test_the_balance_is_told_spent_and_runs_out(upstream: Upstream) -> None:
    # One call costs 6 x 0.15 + 18 x 0.60 = 11.7 micro-dollars.
    simulator = upstream(accounts={"demo": Account(Decimal("0.00002"))}, pricing="off-peak")
    assert [post(simulator.url, chat_body()).status for _ in range(3)] == [200, 200, 402]
    told = get(simulator.url, "/user/balance").json()
    assert told["is_available"] is False
    assert told["balance_infos"][0]["total_balance"] == "0.00"
    stats = simulator.stats()["totals"]
    assert (stats["bill_micro_usd"], stats["bill_pico_usd"]) == (23, 23_400_000)
    assert stats["rejected"] == {"balance": 1}
    simulator.configure(accounts={"demo": {"balance": "12.5"}})
    told = get(simulator.url, "/user/balance").json()
    assert told["balance_infos"][0] == {
        "currency": "USD",
        "total_balance": "12.50",
        "granted_balance": "0.00",
        "topped_up_balance": "12.50",
    }
    assert post(simulator.url, chat_body()).status == 200


def test_a_repeated_prompt_is_billed_as_a_cache_hit(upstream: Upstream) -> None:
    simulator = upstream(pricing="off-peak")
    prompt = "The river runs to the sea. " * 40  # 1,080 characters, 324 tokens
    first, second = (post(simulator.url, chat_body(prompt)).json()["usage"] for _ in range(2))
    assert (first["prompt_cache_hit_tokens"], first["prompt_cache_miss_tokens"]) == (0, 324)
    assert (second["prompt_cache_hit_tokens"], second["prompt_cache_miss_tokens"]) == (320, 4)
    assert second["prompt_tokens_details"] == {"cached_tokens": 320}
    totals, output = simulator.stats()["totals"], second["completion_tokens"]
    assert totals["cached_tokens"] == 320
    assert totals["bill_pico_usd"] == 150_000 * (324 + 4) + 3_000 * 320 + 600_000 * 2 * output


def test_every_path_and_every_answer_has_a_request_id(upstream: Upstream) -> None:
    url = upstream().url
    paths = ("/chat/completions", "/v1/chat/completions")
    answers = [post(url, chat_body(), path=path) for path in paths]
    answers += [get(url, path) for path in ("/models", "/v1/models", "/user/balance", "/nowhere")]
    assert [answer.status for answer in answers] == [200, 200, 200, 200, 200, 404]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 6
    assert all(answer.json()["simulated"] is True for answer in answers)


def test_bodies_may_be_compressed_both_ways(upstream: Upstream) -> None:
    simulator = upstream(gzip_answers=True)
    packed = gzip.compress(json.dumps(chat_body("水往低处流")).encode())
    headers = {"Content-Encoding": "gzip", "Accept-Encoding": "gzip"}
    answer = post(simulator.url, packed, headers=headers)
    assert answer.headers["content-encoding"] == "gzip"
    assert "水往低处流" in answer.json()["choices"][0]["message"]["content"]


def test_a_body_that_claims_to_be_compressed_and_is_not_is_a_400(upstream: Upstream) -> None:
    answer = post(upstream().url, b'{"model": 1}', headers={"Content-Encoding": "gzip"})
    assert answer.status == 400


def test_a_body_above_the_configured_size_is_a_413(upstream: Upstream) -> None:
    simulator = upstream(max_request_bytes=1000)
    assert post(simulator.url, chat_body("x" * 2000)).status == 413
    assert simulator.stats()["totals"]["rejected"] == {"too_large": 1}


def test_a_body_of_ten_mebibytes_is_answered(upstream: Upstream) -> None:
    simulator = upstream(models={"deepseek-flash": ServedModel(context_tokens=10**8)})
    body = json.dumps(chat_body("水" * (10 * 1024 * 1024 // 3)), ensure_ascii=False).encode()
    answer = post(simulator.url, body)
    assert answer.json()["usage"]["prompt_tokens"] == 2_097_152


def test_a_client_that_wants_the_connection_closed_gets_it_closed(upstream: Upstream) -> None:
    url = upstream(faults=(Fault("503"),)).url
    received = exchange(url, chat_body(), headers="Connection: close\r\n")
    assert b"connection: close" in received


def test_the_log_knows_task_and_prompt(upstream: Upstream) -> None:
    simulator = upstream()
    post(simulator.url, chat_body("水往低处流"), headers={"x-penstock-task": "task_1"})
    (call,) = simulator.log()
    assert call["task"] == "task_1"
    assert call["prompt_sha256"] == sha256("水往低处流".encode()).hexdigest()
    assert (call["key"], call["account"], call["model"]) == (KEY, "demo", "deepseek-flash")
    assert (call["sequence"], call["status"], call["outcome"]) == (1, 200, "ok")
    assert 0 <= call["duration"] < 10
    assert abs(call["arrived_at"] - simulator.stats()["now_at"]) < 60


def test_a_call_is_counted_where_it_arrived_although_its_body_came_later(upstream: Upstream) -> None:
    simulator = upstream()
    body = json.dumps(chat_body()).encode()
    with connected(simulator.url) as early:
        early.sendall(head(len(body), "x-penstock-task: early\r\nExpect: 100-continue\r\n"))
        assert early.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"  # its head was read
        early.sendall(body[:10])
        post(simulator.url, chat_body(), headers={"x-penstock-task": "late"})
        early.sendall(body[10:])
        assert early.recv(12) == b"HTTP/1.1 200"
    late_call, early_call = simulator.log()
    assert (late_call["task"], early_call["task"]) == ("late", "early")
    assert early_call["arrived_at"] < late_call["arrived_at"]
    assert simulator.quota(key=KEY)["max_received_60s"] == 2


def test_a_call_whose_body_never_comes_whole_is_only_unread(upstream: Upstream) -> None:
    simulator = upstream()
    with connected(simulator.url) as broken:
        broken.sendall(head(1000) + b"{")
    until(lambda: simulator.stats()["totals"]["unread"] == 1)
    assert simulator.stats()["totals"]["received"] == 0


def test_a_client_that_asks_before_sending_is_told_to_go_on(upstream: Upstream) -> None:
    body = json.dumps(chat_body()).encode()
    with connected(upstream().url) as careful:
        careful.sendall(head(len(body), "Expect: 100-continue\r\n"))
        assert careful.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        careful.sendall(body)
        assert careful.recv(12) == b"HTTP/1.1 200"
