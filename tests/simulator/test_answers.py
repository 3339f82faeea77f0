"""Requests as they are read, and the answers they get."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.answers import AnswerUsage, Envelope, compose, pieces, stream_events
from simulator.errors import ApiError
from simulator.requests import ChatRequest, ServedModel, read_chat_request
from simulator.tokens import count_tokens
from tests.simulator.calling import chat_body

MODELS = {"deepseek-flash": ServedModel(context_tokens=1000, max_output_tokens=400)}
prompts = st.text(alphabet="abc xyz 中文字。\n🙂", min_size=1, max_size=300)


def read(body: Any, status: int = 400) -> ChatRequest:
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    return read_chat_request(data, MODELS, status)


def refused(body: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(body)
    return caught.value


class TestRequests:
    def test_the_prompt_is_the_text_of_all_messages(self) -> None:
        parts = [{"type": "text", "text": "two"}, {"type": "text", "text": "three"}]
        messages = [
            {"role": "system", "content": "one"},
            {"role": "assistant", "content": None, "tool_calls": []},
            {"role": "user", "content": parts},
        ]
        request = read({"model": "deepseek-flash", "messages": messages})
        assert (request.prompt, request.question) == ("onetwothree", "twothree")

    def test_options_are_read(self) -> None:
        request = read(
            chat_body(
                stream=True,
                stream_options={"include_usage": True},
                max_tokens=7,
                thinking={"type": "enabled"},
                response_format={"type": "json_object"},
            )
        )
        assert (request.stream, request.include_usage, request.max_tokens) == (True, True, 7)
        assert (request.thinking, request.json_answer) == (True, True)

    @pytest.mark.parametrize(
        ("body", "status", "words"),
        [
            (b"{", 400, "parse"),
            (b"", 400, "parse"),
            ([], 422, "expected a map"),
            ({"messages": []}, 422, "missing field `model`"),
            ({"model": "deepseek-flash"}, 422, "missing field `messages`"),
            ({"model": "deepseek-flash", "messages": "hi"}, 422, "messages: invalid type"),
            ({"model": "deepseek-flash", "messages": []}, 400, "Empty input messages"),
            ({"model": "deepseek-flash", "messages": ["hi"]}, 422, r"messages\[0\]"),
            ({"model": "deepseek-flash", "messages": [{"role": "user"}]}, 422, "missing field `content`"),
            (chat_body(temperature=3), 400, "valid range of temperature"),
            (chat_body(temperature="hot"), 422, "expected a number"),
            (chat_body(max_tokens=0), 400, r"valid range of max_tokens is \[1, 400\]"),
            (chat_body(max_tokens=401), 400, "valid range of max_tokens"),
            (chat_body(max_tokens="10"), 422, "expected an integer"),
            (chat_body(stream="yes"), 422, "expected a boolean"),
            ({**chat_body(), "model": "gpt-4o"}, 400, "Model Not Exist"),
            (chat_body("x" * 4000), 400, "maximum context length is 1000 tokens"),
            (chat_body("x" * 2500, max_tokens=400), 400, "requested 1150 tokens"),
        ],
    )
    def test_a_bad_request_is_refused_in_deepseeks_words(self, body: Any, status: int, words: str) -> None:
        error = refused(body)
        assert error.status == status
        assert re.search(words, error.message)

    def test_an_unknown_model_may_be_a_404(self) -> None:
        with pytest.raises(ApiError) as caught:
            read({**chat_body(), "model": "gpt-4o"}, status=404)
        assert (caught.value.status, caught.value.code) == (404, "model_not_found")


class TestAnswers:
    @given(prompts)
    def test_the_same_prompt_gets_the_same_answer(self, prompt: str) -> None:
        assert compose(read(chat_body(prompt)), None) == compose(read(chat_body(prompt)), None)

    def test_an_answer_speaks_the_language_of_the_question(self) -> None:
        assert compose(read(chat_body("水往低处流")), None).content.startswith("这是一个模拟的回答")
        assert compose(read(chat_body("Water flows down")), None).content.startswith(
            "This is a simulated answer"
        )

    @given(prompts, st.integers(1, 300))
    def test_an_answer_has_the_length_that_was_asked_for(self, prompt: str, tokens: int) -> None:
        answer = compose(read(chat_body(prompt)), tokens)
        assert answer.completion_tokens == count_tokens(answer.content)
        assert answer.completion_tokens == tokens

    @given(prompts, st.integers(1, 60), st.booleans())
    def test_max_tokens_is_never_exceeded(self, prompt: str, most: int, thinks: bool) -> None:
        thinking = {"type": "enabled" if thinks else "disabled"}
        answer = compose(read(chat_body(prompt, max_tokens=most, thinking=thinking)), 200)
        assert answer.completion_tokens <= most
        assert answer.finish_reason == "length"
        assert answer.reasoning_tokens + count_tokens(answer.content) == answer.completion_tokens

    def test_a_thinking_model_reasons_and_the_reasoning_counts(self) -> None:
        answer = compose(read(chat_body(thinking={"type": "enabled"})), None)
        assert answer.reasoning_tokens == count_tokens(answer.reasoning) > 0
        assert answer.completion_tokens == answer.reasoning_tokens + count_tokens(answer.content)

    def test_a_json_answer_is_json(self) -> None:
        answer = compose(read(chat_body('say "hi"', response_format={"type": "json_object"})), None)
        assert 'say "hi"' in orjson.loads(answer.content)["answer"]

    @given(prompts)
    def test_pieces_of_a_stream_give_the_text_back(self, prompt: str) -> None:
        assert "".join(pieces(prompt)) == prompt

    @given(prompts, st.booleans())
    def test_a_stream_carries_the_answer_once_and_ends(self, prompt: str, include_usage: bool) -> None:
        answer = compose(read(chat_body(prompt, thinking={"type": "enabled"})), None)
        usage = AnswerUsage(10, 0, answer.completion_tokens, answer.reasoning_tokens)
        events = stream_events(Envelope("id", 1, "deepseek-flash"), answer, usage, include_usage)
        lines = [data.decode() for _, data in events]
        assert lines[-1] == "data: [DONE]\n\n"
        chunks = [orjson.loads(line.removeprefix("data: ")) for line in lines[:-1]]
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        assert "".join(delta.get("content", "") for delta in deltas) == answer.content
        assert "".join(delta.get("reasoning_content", "") for delta in deltas) == answer.reasoning
        assert [chunk["usage"] for chunk in chunks if chunk.get("usage")] == [usage.as_json()]
        assert all(chunk["simulated"] for chunk in chunks)
