"""Bodies: what is accepted, and what each refusal says."""

import json
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.caching.domain.caching import Mode
from app.platform.domain.errors import Invalid
from app.platform.domain.json_text import lines
from app.submission.bodies import BatchBody, BatchLine, TaskBody, option_headers, with_options
from app.submission.openai_bodies import ChatBody, parse_line
from app.submission.validation import parse, parse_json
from app.tasks.domain.task import Priority

HELLO = {"prompt": "hello"}
SAID = [{"role": "user", "content": "hello"}]


def refusal_of(model: Any, value: Any) -> Invalid:
    with pytest.raises(Invalid) as caught:
        parse(model, value)
    return caught.value


def test_a_prompt_is_a_single_user_message() -> None:
    assert parse(TaskBody, HELLO).request().messages == SAID


def test_everything_that_may_be_wished_is_taken() -> None:
    body = {
        "model": "m",
        "messages": SAID,
        "parameters": {"temperature": 0.2, "stream": False, "anything": {"deep": [1]}},
        "priority": "high",
        "callback_url": "https://example.com/",
        "expires_in": "10m",
        "run_at": "2026-11-21T06:00:00Z",
        "metadata": {"a": "b"},
        "custom_id": "mine",
        "retry": "default",
    }
    request = parse(BatchLine, body).line_request()
    assert request.priority is Priority.HIGH
    assert request.expires_in == 600
    assert request.run_at == 1795240800
    assert request.parameters == {"temperature": 0.2, "anything": {"deep": [1]}}
    assert (request.custom_id, request.metadata, request.retry) == ("mine", {"a": "b"}, "default")


BAD_TASKS: list[tuple[Any, str | None, str, str]] = [
    # body, param, code, a part of the message
    ({}, "prompt", "missing_field", "one of prompt and messages"),
    ([], None, "invalid_type", "must be an object"),
    ("x", None, "invalid_type", "must be an object"),
    (None, None, "invalid_type", "must be an object"),
    ({"prompt": ""}, "prompt", "invalid_value", "must not be empty"),
    ({"prompt": " \n"}, "prompt", "invalid_value", "must not be empty"),
    ({"prompt": 5}, "prompt", "invalid_type", "must be text"),
    ({"prompt": "a", "messages": SAID}, "prompt", "invalid_value", "exclude each other"),
    ({"messages": []}, "messages", "invalid_value", "at least 1"),
    ({"messages": "hello"}, "messages", "invalid_type", "must be a list"),
    ({"messages": ["hello"]}, "messages[0]", "invalid_type", "must be an object"),
    ({"messages": [*SAID, {"content": "x"}]}, "messages[1].role", "invalid_type", "must be text"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type", "must be text"),
    ({**HELLO, "modle": "m"}, "modle", "unknown_field", "did you mean model?"),
    ({**HELLO, "zzz": 1}, "zzz", "unknown_field", "fields are allow_degraded, cache"),
    ({**HELLO, "top_kk": 1}, "top_kk", "unknown_field", 'put it into "parameters": {"top_kk": ...}'),
    ({**HELLO, "stream": True}, "stream", "invalid_value", "remove stream"),
    ({**HELLO, "max_tokens": "4096"}, "max_tokens", "invalid_value", "positive integer"),
    (
        {**HELLO, "max_tokens": 5, "parameters": {"max_tokens": 6}},
        "max_tokens",
        "invalid_value",
        "remove one",
    ),
    (
        {**HELLO, "parameters": {"window": "off_peak"}},
        "parameters.window",
        "invalid_value",
        "move window out",
    ),
    *(
        ({**HELLO, "parameters": {name: value}}, f"parameters.{name}", "invalid_type", "must be")
        for name, value in [
            ("temperature", "0.5"),
            ("temperature", True),
            ("seed", [1]),
            ("stop", 5),
            ("tools", {}),
            ("tool_choice", 1),
            ("response_format", "json_object"),
            ("parallel_tool_calls", "false"),
            ("logit_bias", []),
            ("user", 17),
        ]
    ),
    *(
        ({**HELLO, name: value}, name, code, f'"parameters": {{"{name}": ...}}')
        for name, value, code in [
            ("priority", 0, "invalid_value"),
            ("cache", True, "invalid_type"),
            ("order", "price", "invalid_value"),
            ("retry", 3, "invalid_type"),
            ("window", 4096, "invalid_value"),
        ]
    ),
    ({**HELLO, "penstock": {"priority": 0}}, "penstock.priority", "invalid_value", "'high'"),
    (
        {**HELLO, "penstock": {"prioritty": "low"}},
        "penstock.prioritty",
        "unknown_field",
        "did you mean priority?",
    ),
    ({**HELLO, "penstock": "low"}, "penstock", "invalid_type", "must be an object"),
    ({**HELLO, "model": 3}, "model", "invalid_type", "must be text"),
    ({**HELLO, "model": ""}, "model", "invalid_value", "at least 1"),
    ({**HELLO, "model": "a\x00b"}, "model", "invalid_value", "control characters"),
    ({**HELLO, "parameters": []}, "parameters", "invalid_type", "must be an object"),
    ({**HELLO, "parameters": {"stream": True}}, "parameters.stream", "invalid_value", "remove stream"),
    ({**HELLO, "parameters": {"stream": "no"}}, "parameters.stream", "invalid_value", "remove stream"),
    ({**HELLO, "parameters": {"messages": []}}, "parameters.messages", "invalid_value", "move messages out"),
    (
        {**HELLO, "parameters": {"callback_url": ""}},
        "parameters.callback_url",
        "invalid_value",
        "move callback_url",
    ),
    *(
        ({**HELLO, "parameters": {name: value}}, f"parameters.{name}", "invalid_value", "positive integer")
        for name, value in [
            *((name, value) for name in ("max_tokens", "max_completion_tokens") for value in ("9", True, -2)),
            *((name, value) for name in ("n", "best_of") for value in ("2", True, 0, -1, [2])),
            *((name, value) for name in ("max_tokens", "n") for value in (0.5, 1.5, 2**31, 1e300)),
        ]
    ),
    ({**HELLO, "priority": "urgent"}, "priority", "invalid_value", "'high', 'normal' or 'low'"),
    ({**HELLO, "callback_url": 1}, "callback_url", "invalid_type", "must be text"),
    ({**HELLO, "expires_in": 0}, "expires_in", "invalid_value", "between 1 second and 30 days"),
    ({**HELLO, "expires_in": "31d"}, "expires_in", "invalid_value", "between 1 second and 30 days"),
    ({**HELLO, "expires_in": "soon"}, "expires_in", "invalid_value", "a duration is"),
    ({**HELLO, "expires_in": True}, "expires_in", "invalid_type", "number of seconds"),
    ({**HELLO, "run_at": "tomorrow"}, "run_at", "invalid_value", "RFC 3339"),
    ({**HELLO, "run_at": {}}, "run_at", "invalid_type", "Unix seconds"),
    ({**HELLO, "metadata": {"a": {"b": 1}}}, "metadata.a", "invalid_type", "encoded as JSON"),
    ({**HELLO, "metadata": {"a": "x", "b": None}}, "metadata.b", "invalid_type", "must be text or a number"),
    ({**HELLO, "metadata": {f"n{n}": n for n in range(28)}}, "metadata", "invalid_value", "'n16'"),
    ({**HELLO, "metadata": {"a": "x" * 513}}, "metadata.a", "invalid_value", "512"),
    ({**HELLO, "metadata": {"x" * 65: ""}}, "metadata", "invalid_value", "64"),
    ({**HELLO, "metadata": {str(n): "" for n in range(17)}}, "metadata", "invalid_value", "at most 16"),
    ({**HELLO, "custom_id": "x"}, "custom_id", "unknown_field", "unknown field"),
]


@pytest.mark.parametrize(("body", "param", "code", "part"), BAD_TASKS)
def test_a_bad_task_is_refused_by_the_name_of_its_field(
    body: Any, param: str | None, code: str, part: str
) -> None:
    refusal = refusal_of(TaskBody, body)
    assert (refusal.param, refusal.code, refusal.status) == (param, code, 400)
    assert part in refusal.message


@pytest.mark.parametrize("body", [TaskBody, ChatBody])
@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"max_tokens": None, "max_completion_tokens": 0, "n": None}, {}),
        ({"max_tokens": -1, "max_completion_tokens": -1.0}, {}),
        ({"max_tokens": 4096.0, "n": 2.0, "best_of": 3}, {"max_tokens": 4096, "n": 2, "best_of": 3}),
        ({"max_tokens": 3000, "max_completion_tokens": 1}, {"max_tokens": 3000, "max_completion_tokens": 1}),
    ],
)
def test_limits_of_an_answer_are_whole_numbers_or_left_out(
    body: type[TaskBody], given: dict[str, Any], sent: dict[str, Any]
) -> None:
    """What sets no limit is not sent: upstreams refuse some of its forms, or take them for a limit."""
    beside = given if body is ChatBody else {"parameters": given}
    passed = parse(body, {"messages": SAID, **beside}).request().parameters
    assert passed == sent
    assert all(type(value) is int for value in passed.values())


def test_a_wrong_limit_of_a_chat_is_refused_by_its_name() -> None:
    refusal = refusal_of(ChatBody, {"messages": SAID, "n": "2"})
    assert (refusal.param, refusal.status) == ("n", 400)


@pytest.mark.parametrize("body", [TaskBody, BatchLine])
def test_known_parameters_beside_a_prompt_are_parameters(body: type[TaskBody]) -> None:
    value = {**HELLO, "temperature": 0.2, "max_tokens": 7.0, "parameters": {"top_p": 1, "temperature": 0.2}}
    assert parse(body, value).request().parameters == {"temperature": 0.2, "max_tokens": 7, "top_p": 1}


def test_metadata_takes_numbers_as_text() -> None:
    given = {"n": 17, "share": 0.5, "name": "x", "large": 2**60}
    expected = {"n": "17", "share": "0.5", "name": "x", "large": str(2**60)}
    assert parse(TaskBody, {**HELLO, "metadata": given}).request().metadata == expected


UPSTREAMS = {"priority": 0, "cache": True, "order": "price", "window": 4096, "retry": 3}


@pytest.mark.parametrize("body", [TaskBody, BatchLine, ChatBody])
def test_fields_that_both_sides_have_reach_the_upstream_by_parameters_and_penstock_by_its_own(
    body: type[TaskBody],
) -> None:
    ours = {"priority": "low", "cache": "off", "order": "deadline", "window": "off_peak", "retry": "patient"}
    for value in (
        {"messages": SAID, "parameters": UPSTREAMS, "penstock": ours},
        {"messages": SAID, **UPSTREAMS, "penstock": ours},
        {"messages": SAID, "parameters": UPSTREAMS, **ours},
        with_options(
            {"messages": SAID, **UPSTREAMS}, option_headers((f"x-penstock-{n}", v) for n, v in ours.items())
        ),
    ):
        request = parse(body, value).request()
        assert request.parameters == UPSTREAMS
        assert (request.priority, request.order, request.retry) == (Priority.LOW, "deadline", "patient")
        assert request.off_peak
        assert request.cache is not None
        assert request.cache.mode is Mode.OFF


def test_headers_hold_options_as_json_or_text_and_the_body_takes_precedence() -> None:
    headers = [("X-Penstock-Expires-In", "10m"), ("x-penstock-store", "false"), ("accept", "x")]
    headers += [("x-penstock-metadata", '{"a": 1}'), ("x-penstock-priority", "high")]
    value = with_options({**HELLO, "penstock": {"priority": "low"}}, option_headers(headers))
    request = parse(TaskBody, value).request()
    assert (request.expires_in, request.store, request.metadata) == (600, False, {"a": "1"})
    assert request.priority is Priority.LOW
    assert refusal_of(TaskBody, with_options(HELLO, {"colour": "red"})).param == "penstock.colour"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (rb'"cut \ud83d"', "cut \ufffd"),
        (rb'"\udE00 cut"', "\ufffd cut"),
        (rb'"\ud83d\ud83d\ude00"', "\ufffd\U0001f600"),
        (rb'"\\ud83d \ud83d"', "\\ud83d \ufffd"),
        (rb'"\\\ud83dx"', "\\\ufffdx"),
        (b'"\xed\xa0\xbd\xed\xb8\x80"', "\U0001f600"),
        (b'"a\xed\xa0\xbd"', "a\ufffd"),
        (b'\xef\xbb\xbf"marked"', "marked"),
    ],
)
def test_half_an_emoji_becomes_the_replacement_character(raw: bytes, text: str) -> None:
    assert parse_json(raw) == text


@given(st.text(st.characters(exclude_categories=[]), max_size=12))
def test_any_text_that_python_can_write_is_read(text: str) -> None:
    """json.dumps escapes halves of surrogate pairs; whatever else stands there stays as it is."""
    expected = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert parse_json(json.dumps(text).encode()) == expected


BAD_BATCHES: list[tuple[Any, str | None, str, str]] = [
    ({}, "requests", "missing_field", "is required"),
    ({"requests": []}, "requests", "invalid_value", "at least 1"),
    ({"requests": {}}, "requests", "invalid_type", "must be a list"),
    ({"requests": [5]}, "requests[0]", "invalid_type", "must be an object"),
    ({"requests": [HELLO, {}]}, "requests[1].prompt", "missing_field", "one of prompt and messages"),
    ({"requests": [{**HELLO, "promt": 1}]}, "requests[0].promt", "unknown_field", "did you mean prompt?"),
    ({"requests": [{**HELLO, "custom_id": ""}]}, "requests[0].custom_id", "invalid_value", "at least 1"),
    ({"requests": [{**HELLO, "custom_id": "a\x00"}]}, "requests[0].custom_id", "invalid_value", "control"),
    ({"requests": [HELLO], "batch_size": 0}, "batch_size", "invalid_value", "must be 1 or more"),
    ({"requests": [HELLO], "batch_size": "5"}, "batch_size", "invalid_type", "must be an integer"),
    ({"requests": [HELLO], "batchsize": 5}, "batchsize", "unknown_field", "did you mean batch_size?"),
    ({"requests": [HELLO], "prompt": "x"}, "prompt", "unknown_field", "unknown field"),
]


@pytest.mark.parametrize(("body", "param", "code", "part"), BAD_BATCHES)
def test_a_bad_batch_is_refused_by_the_name_of_its_field(body: Any, param: str, code: str, part: str) -> None:
    refusal = refusal_of(BatchBody, body)
    assert (refusal.param, refusal.code) == (param, code)
    assert part in refusal.message


def test_a_refusal_never_repeats_a_prompt() -> None:
    secret = "the secret prompt"
    for body in (
        {"prompt": [secret]},
        {"messages": [{"role": [secret]}]},
        {"prompt": secret, "model": [secret]},
    ):
        assert secret not in refusal_of(TaskBody, body).message


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"nul",
        b'{"a": NaN}',
        b'{"a": 1}}',
        b"\xff",
        b"[" * 5000,
        b'{"prompt": "\xff"}',
    ],
)
def test_what_is_not_json_is_refused_with_its_place(raw: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        parse_json(raw)
    assert caught.value.code == "invalid_json"
    assert "line " in caught.value.message


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=10,
)
FIELDS = st.sampled_from([*TaskBody.model_fields, "custom_id", "zzz"])


@given(st.dictionaries(FIELDS, JSON, max_size=5) | JSON)
def test_any_json_is_either_taken_or_refused(value: Any) -> None:
    with suppress(Invalid):
        parse(BatchLine, value).line_request()


def cut(raw: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(raw[:size])
        raw = raw[size:]
    return [*pieces, raw]


@given(st.lists(st.sampled_from([b"", b"  ", b"{}", b'{"a": 1}', b"x" * 30])), st.lists(st.integers(0, 20)))
def test_lines_do_not_depend_on_how_the_body_was_cut(written: list[bytes], sizes: list[int]) -> None:
    found = list(lines(cut(b"\n".join(written), sizes), longest=100))
    assert found == [(number, line) for number, line in enumerate(written, 1) if line.strip()]


def test_lines_may_end_in_crlf_and_begin_with_a_mark() -> None:
    assert list(lines([b"\xef\xbb\xbf{}\r\n[]\r\n"], longest=100)) == [(1, b"{}"), (2, b"[]")]


def test_a_line_that_never_ends_is_refused_before_it_is_whole() -> None:
    endless = (b"x" * 1000 for _ in range(1_000_000))
    with pytest.raises(Invalid) as caught:
        list(lines(endless, longest=10_000))
    assert caught.value.status == 413


def test_ten_thousand_requests_are_checked_in_a_moment() -> None:
    body = orjson.dumps({"requests": [{"model": "m", "messages": SAID}] * 10_000})
    assert len(parse(BatchBody, parse_json(body)).requests) == 10_000


LINE = {"body": {"messages": [{"role": "user", "content": "Hello"}]}}
TAKEN_LINES = [
    ({"custom_id": 17}, "17"),
    ({"custom_id": 17.0, "method": "post", "url": "/chat/completions"}, "17"),
    ({"custom_id": "row\u30007", "method": "POST", "url": "/v4/chat/completions/"}, "row\u30007"),
    ({"custom_id": "a b", "url": "https://api.example.com/v1/chat/completions"}, "a b"),
]


@pytest.mark.parametrize(("named", "custom_id"), TAKEN_LINES)
def test_a_line_of_a_batch_file_is_taken_as_people_write_it(named: Any, custom_id: str) -> None:
    assert parse_line(orjson.dumps({**named, **LINE})).custom_id == custom_id


@pytest.mark.parametrize(
    ("named", "param", "why"),
    [
        ({"custom_id": True}, "custom_id", "must be text"),
        ({"custom_id": 1.5}, "custom_id", "must be text"),
        ({"custom_id": "a\u2028b"}, "custom_id", "line breaks"),
        ({"custom_id": "a", "url": "/v1/embeddings"}, "url", "only /v1/chat/completions is served"),
        ({"custom_id": "a", "method": "GET"}, "method", "must be 'POST'"),
    ],
)
def test_a_line_of_a_batch_file_that_cannot_run_names_its_field(named: Any, param: str, why: str) -> None:
    with pytest.raises(Invalid, match=why) as caught:
        parse_line(orjson.dumps({**named, **LINE}))
    assert caught.value.param == param
