"""Answers told apart: complete, empty, truncated, refused, filtered, not the JSON asked for; and what they used."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from app.tasks.domain.attempt import Finish, Outcome, TokenUsage
from app.upstreams.domain.answer import finish_of, usage_of
from app.upstreams.domain.classify import CallVerdict, UpstreamProfile, classify
from app.upstreams.read_answer import json_check
from tests.attempts import NOW, a_completion, a_reply


def judge(choices: list[Any]) -> CallVerdict:
    answer = a_reply(200, a_completion(choices=choices))
    return classify(answer, model="m", now=NOW, parse=orjson.loads, profile=UpstreamProfile())


CALLS = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


def choice(reason: Any = "stop", **message: Any) -> dict[str, Any]:
    return {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}


FINISHES = [
    (Finish.COMPLETE, [choice(content="hi")]),
    (Finish.COMPLETE, [choice(None, content="hi")]),
    (Finish.COMPLETE, [choice("tool_calls", content=None, tool_calls=CALLS)]),
    (Finish.COMPLETE, [choice("eos", content="hi", reasoning_content="hm")]),
    (Finish.COMPLETE, [choice(content=None, audio={"id": "a"})]),
    (Finish.COMPLETE, [choice(content="I will not.", refusal="I will not.")]),
    (Finish.EMPTY, [choice(content="")]),
    (Finish.EMPTY, [choice(content=None, tool_calls=[], annotations=[{"a": 1}])]),
    (Finish.EMPTY, [choice(content=" \n" * 1000)]),
    (Finish.EMPTY, [choice()]),
    (Finish.REASONING_ONLY, [choice(content=None, reasoning_content="I wonder")]),
    (Finish.REASONING_ONLY, [choice(content="", reasoning="I wonder")]),
    (Finish.REASONING_ONLY, [choice(content=" ", reasoning_details=[{"text": "so"}])]),
    (Finish.TRUNCATED, [choice("length", content="hi")]),
    (Finish.TRUNCATED, [choice("MAX_TOKENS", content="hi")]),
    (Finish.TRUNCATED, [choice("length", content="", reasoning_content="I wonder")]),
    (Finish.REFUSED, [choice(content=None, refusal="I will not.")]),
    (Finish.REFUSED, [choice("refusal", content="")]),
    (Finish.CONTENT_FILTER, [choice("content_filter", content="")]),
    (Finish.CONTENT_FILTER, [choice("SAFETY", content="half an")]),
    (Finish.CONTENT_FILTER, [choice("sensitive", content=None)]),
    (Finish.EMPTY, [choice(content="hi"), choice(content="")]),
    (Finish.TRUNCATED, [choice("length", content="hi"), choice(content="hi")]),
]


@pytest.mark.parametrize(("finish", "choices"), FINISHES)
def test_answers_are_told_apart(finish: Finish, choices: list[Any]) -> None:
    assert finish_of({"choices": choices}) is finish
    verdict = judge(choices)
    withheld = finish is Finish.CONTENT_FILTER and choices[0]["message"]["content"] != "half an"
    assert verdict.outcome is (Outcome.CONTENT_REFUSED if withheld else Outcome.SUCCEEDED)
    assert verdict.finish is finish
    assert verdict.result is not None


SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "to": {"$ref": "#/$defs/name"}},
    "required": ["n"],
    "additionalProperties": False,
    "$defs": {"name": {"type": "string", "pattern": "^(a+)+$"}},
}


def asks(kind: str, schema: Any = None) -> str:
    wanted: dict[str, Any] = {"type": kind}
    if schema is not None:
        wanted["json_schema"] = {"name": "x", "strict": True, "schema": schema}
    return json.dumps({"messages": [], "response_format": wanted})


JSON_ANSWERS = [
    (asks("json_object"), '{"a": 1}', True),
    (asks("json_object"), ' {"a": 1}\n', True),
    (asks("json_object"), "[1]", False),
    (asks("json_object"), '```json\n{"a": 1}\n```', False),
    (asks("json_object"), '{"a": 1', False),
    (asks("json_schema", SCHEMA), '{"n": 1}', True),
    (asks("json_schema", SCHEMA), '{"n": "1"}', False),
    (asks("json_schema", SCHEMA), '{"n": 1, "m": 2}', False),
    (asks("json_schema", SCHEMA), "{}", False),
    (asks("json_schema", SCHEMA), '{"n": 1, "to": "' + "a" * 5000 + 'b"}', False),  # in linear time
    (asks("json_schema", {"$ref": "http://127.0.0.1:1/s"}), '{"a": 1}', True),  # looked up nowhere
    (asks("json_schema", {"type": "no such"}), '{"a": 1}', True),
    (asks("json_schema", {"type": "no such"}), "words", False),
    (asks("json_schema", {"pattern": "(?=x)"}), '{"a": 1}', True),
    (asks("json_schema"), '{"a": 1}', True),
    (asks("text"), "words", None),
    ('{"messages": []}', "words", None),
    ('{"response_format": null}', "words", None),
    ('{"messages": [{"content": "\\"response_format\\""}]}', "words", None),
]


@pytest.mark.parametrize(("request_", "content", "fits"), JSON_ANSWERS)
def test_json_that_is_not_what_was_asked_for_is_noticed(
    request_: str, content: str, fits: bool | None
) -> None:
    check = json_check(request_)
    assert (None if check is None else check(content)) == fits
    finish = finish_of({"choices": [choice(content=content)]}, check)
    assert finish is (Finish.INVALID_JSON if fits is False else Finish.COMPLETE)


def test_tool_calls_need_not_be_the_json_that_was_asked_for() -> None:
    answer = {"choices": [choice("tool_calls", content="Let me see.", tool_calls=CALLS)]}
    assert finish_of(answer, json_check(asks("json_object"))) is Finish.COMPLETE


def details(reasoning: int) -> dict[str, Any]:
    return {"completion_tokens_details": {"reasoning_tokens": reasoning}}


USAGES = [
    ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}, (10, 5, 0, 0)),
    ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 215, **details(200)}, (10, 205, 0, 200)),
    ({"prompt_tokens": 10, "completion_tokens": 205, "total_tokens": 215, **details(200)}, (10, 205, 0, 200)),
    ({"prompt_tokens": 10, "completion_tokens": 5, **details(200)}, (10, 205, 0, 200)),
    ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 40}, (10, 30, 0, 0)),
    ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 0}, (10, 5, 0, 0)),
    ({"prompt_tokens": 10, "total_tokens": 12}, (10, 2, 0, 0)),
    ({"prompt_tokens": 10, "completion_tokens": None, "total_tokens": 10}, (10, 0, 0, 0)),
    ({"completion_tokens": 5, "total_tokens": 15}, (10, 5, 0, 0)),
    ({"input_tokens": 10, "output_tokens": 5}, (10, 5, 0, 0)),
    ({"prompt_tokens": 10.0, "completion_tokens": 5.0}, (10, 5, 0, 0)),
    ({"prompt_tokens": 10, "completion_tokens": 5, "prompt_cache_hit_tokens": 4}, (10, 5, 4, 0)),
    ({"total_tokens": 15}, None),
    ({"prompt_tokens": 10}, None),
    ({"prompt_tokens": -1, "completion_tokens": "5"}, None),
    (None, None),
]


@pytest.mark.parametrize(("said", "counted"), USAGES)
def test_what_is_missing_from_the_total_is_output(said: Any, counted: Any) -> None:
    usage = None if counted is None else TokenUsage(*counted)
    assert usage_of({"usage": said, "choices": []}) == usage
    assert usage_of({"choices": [{"usage": said, "message": {}}]}) == usage


def test_content_as_parts_and_deltas_in_a_whole_answer_are_kept_as_clients_expect_them() -> None:
    parts = [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "h"},
        {"type": "text", "text": "i"},
    ]
    picture = [{"type": "image_url", "image_url": {"url": "data:"}}, {"type": "text", "text": "hi"}]
    delta = {"index": 0, "delta": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    for given, content, reasoning in (
        (choice(content=parts), "hi", "hm"),
        (choice(content=picture), picture, None),
        (delta, "hi", None),
    ):
        verdict = judge([given])
        message = orjson.loads(verdict.result or "")["choices"][0]["message"]
        assert (message["content"], message.get("reasoning_content")) == (content, reasoning)
