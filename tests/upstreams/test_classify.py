"""Each kind of answer, and the outcome it means."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.tasks.domain.attempt import Finish, Outcome, TokenUsage
from app.upstreams.domain.classify import CallVerdict, classify
from app.upstreams.domain.reply import Reply, TransportError, TransportErrorKind
from app.upstreams.domain.upstream_error import LimitScope
from tests.attempts import NOW, PROFILE, a_completion, a_reply


def judge(back: Reply | TransportError, model: str = "deepseek-flash") -> CallVerdict:
    return classify(back, model=model, now=NOW, parse=orjson.loads, profile=PROFILE)


def error(message: str = "", code: Any = None, kind: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def test_a_proper_body_succeeds_and_is_kept_as_it_came() -> None:
    body = orjson.dumps(a_completion())
    verdict = judge(a_reply(200, b"\n\n \r\n" + body + b"\n", x_request_id="req-1"))
    assert verdict.outcome is Outcome.SUCCEEDED
    assert verdict.result == body.decode()
    assert verdict.usage == TokenUsage(5, 2)
    assert verdict.upstream_request_id == "req-1"
    assert not verdict.simulated


PUT_RIGHT = [
    (b"\xef\xbb\xbf" + orjson.dumps({"a": 1}), {"a": 1}),
    (b"\n\n\xef\xbb\xbf\r\n" + orjson.dumps({"a": 1}), {"a": 1}),
    (b'{"a": NaN, "b": -Infinity, "c": Infinity, "d": 1e999}', dict.fromkeys("abcd")),
    (b'{"a": "cut \\ud83d"}', {"a": "cut \ufffd"}),
    (b'{"a": "\\ude00 cut", "b": "\\ud83d\\ude00"}', {"a": "\ufffd cut", "b": "\U0001f600"}),
    (b'{"a": "\xff"}', {"a": "\ufffd"}),
    (b'{"a": "two\nlines\tand a tab"}', {"a": "two\nlines\tand a tab"}),
]


@pytest.mark.parametrize(("oddity", "read"), PUT_RIGHT)
def test_an_answer_that_was_paid_for_is_kept_on_one_line_whatever_its_oddities(
    oddity: bytes, read: dict[str, Any]
) -> None:
    whole = orjson.dumps(a_completion())[:-1]
    brace = oddity.index(b"{")
    verdict = judge(a_reply(200, oddity[:brace] + whole + b"," + oddity[brace + 1 :]))
    assert verdict.outcome is Outcome.SUCCEEDED
    assert verdict.usage == TokenUsage(5, 2)
    assert verdict.result is not None
    assert "\n" not in verdict.result
    assert orjson.loads(verdict.result) == a_completion(**read)


ANSWER = orjson.dumps(a_completion())
BEHIND = [
    ANSWER,
    b"\n" + ANSWER,
    b"\n\ndata: [DONE]\n\n",
    b"[DONE]",
    b"\n<!-- cached -->",
    b"\x00",
    b'{"error": 1}',
]


@pytest.mark.parametrize("behind", BEHIND)
def test_an_answer_is_kept_whatever_stands_behind_it(behind: bytes) -> None:
    verdict = judge(a_reply(200, ANSWER + behind))
    assert (verdict.outcome, verdict.usage) == (Outcome.SUCCEEDED, TokenUsage(5, 2))
    assert orjson.loads(verdict.result or "") == a_completion()


def test_an_error_is_read_whatever_stands_behind_it() -> None:
    assert judge(a_reply(200, b'{"error": "Server is busy"}\n' + ANSWER)).outcome is Outcome.OVERLOADED


CHOICE = {"index": 0, "finish_reason": "stop"}
USED = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
IN_ENVELOPES = [
    {"code": 0, "msg": "ok", "data": a_completion()},
    {"success": True, "result": a_completion()},
    {"statusCode": 200, "body": ANSWER.decode()},
    {"output": {"choices": a_completion()["choices"]}, "usage": USED, "request_id": "r"},
    [a_completion()],
    a_completion(choices=a_completion()["choices"][0]),
    a_completion(choices=[{**CHOICE, "text": "Hi."}]),
    a_completion(choices=[{**CHOICE, "message": {"content": {"type": "text", "text": "Hi."}}}]),
    a_completion(error={"message": "", "code": 0}),
]


@pytest.mark.parametrize("body", IN_ENVELOPES)
def test_an_answer_is_found_in_its_envelope(body: Any) -> None:
    verdict = judge(a_reply(200, body))
    assert (verdict.outcome, verdict.usage) == (Outcome.SUCCEEDED, TokenUsage(5, 2))
    assert orjson.loads(verdict.result or "")["choices"][0]["message"]["content"] == "Hi."


def test_an_envelope_with_an_error_is_that_error() -> None:
    body = {"code": 30001, "message": "Sorry, your account balance is insufficient", "data": None}
    assert judge(a_reply(200, body)).outcome is Outcome.NO_BALANCE


def test_arguments_are_kept_as_a_text() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    body = a_completion(choices=[{**CHOICE, "message": {"content": None, "tool_calls": [call]}}])
    kept = orjson.loads(judge(a_reply(200, body)).result or "")["choices"][0]["message"]["tool_calls"]
    assert kept == [{**call, "function": {"name": "f", "arguments": '{"a":1}'}}]


def test_a_choice_without_a_message_is_an_empty_answer_once_it_has_ended() -> None:
    verdict = judge(a_reply(200, a_completion(choices=[{**CHOICE, "message": None}])))
    assert (verdict.outcome, verdict.finish) == (Outcome.SUCCEEDED, Finish.EMPTY)


@pytest.mark.parametrize("how", [{"indent": 2}, {"indent": "\t"}, {"indent": 1, "ensure_ascii": False}])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r", "\n\n"])
def test_a_pretty_printed_answer_is_kept_on_one_line_to_the_last_digit(
    how: dict[str, Any], ends: str
) -> None:
    text = "  two\n  lines, \u4e2d\u6587, 'a \\ b'"
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    completion = a_completion(choices=[choice], big=12345678901234567890123, small=0.1)
    verdict = judge(a_reply(200, json.dumps(completion, **how).replace("\n", ends).encode()))
    assert verdict.result is not None
    assert not {"\n", "\r"} & set(verdict.result)
    assert json.loads(verdict.result) == completion
    assert len(verdict.result) <= len(json.dumps(completion)) + 12


def test_a_simulated_answer_is_marked() -> None:
    assert judge(a_reply(200, a_completion(simulated=True))).simulated
    assert not judge(a_reply(200, a_completion(simulated="true"))).simulated


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n\n\n",
        b"<html>ok</html>",
        b'{"choices": [{"mess',
        b"[]",
        b'"text"',
        b"null",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{}]}',
        b'{"choices": "none"}',
        b"[" * 3000 + b"]" * 3000,
    ],
)
def test_a_200_without_a_proper_body_is_malformed(body: bytes) -> None:
    verdict = judge(a_reply(200, body))
    assert verdict.outcome is Outcome.MALFORMED
    assert verdict.result is None
    assert verdict.message


STATUSES = {
    302: Outcome.UNAVAILABLE,
    400: Outcome.INVALID_REQUEST,
    401: Outcome.UNAUTHORIZED,
    402: Outcome.NO_BALANCE,
    403: Outcome.FORBIDDEN,
    404: Outcome.UNKNOWN_MODEL,
    405: Outcome.INVALID_REQUEST,
    408: Outcome.UNAVAILABLE,
    409: Outcome.UNAVAILABLE,
    413: Outcome.INVALID_REQUEST,
    422: Outcome.INVALID_REQUEST,
    425: Outcome.UNAVAILABLE,
    429: Outcome.RATE_LIMITED,
    500: Outcome.UNAVAILABLE,
    502: Outcome.UNAVAILABLE,
    503: Outcome.OVERLOADED,
    504: Outcome.UNAVAILABLE,
    529: Outcome.OVERLOADED,
}


@pytest.mark.parametrize(("status", "outcome"), STATUSES.items())
@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"{}", b"[1]", b'{"error": null}', b'{"error": {"code": 7}}']
)
def test_the_status_alone_says_enough(status: int, outcome: Outcome, body: bytes) -> None:
    verdict = judge(a_reply(status, body))
    assert verdict.outcome is outcome
    assert verdict.status_code == status


SAID = [
    (
        429,
        error("You exceeded your current quota", "insufficient_quota", "insufficient_quota"),
        Outcome.NO_BALANCE,
    ),
    (429, error("You exceeded your current quota", 429, "RESOURCE_EXHAUSTED"), Outcome.RATE_LIMITED),
    (429, error("The engine is currently overloaded"), Outcome.OVERLOADED),
    (403, error("Insufficient account balance", 30011), Outcome.NO_BALANCE),
    (403, error("Flagged as violence"), Outcome.CONTENT_REFUSED),
    (400, error("Insufficient Balance", "invalid_request_error", "unknown_error"), Outcome.NO_BALANCE),
    (400, error("Content Exists Risk", "invalid_request_error"), Outcome.CONTENT_REFUSED),
    (400, error("...", "content_filter"), Outcome.CONTENT_REFUSED),
    (400, error("This model's maximum context length is 65536 tokens."), Outcome.CONTEXT_TOO_LONG),
    (400, error("...", "context_length_exceeded"), Outcome.CONTEXT_TOO_LONG),
    (413, error("prompt is too long: 300000 tokens > 200000 maximum"), Outcome.CONTEXT_TOO_LONG),
    (400, error("Model Not Exist", "invalid_request_error"), Outcome.UNKNOWN_MODEL),
    (400, error("The model `x` does not exist or you do not have access to it."), Outcome.UNKNOWN_MODEL),
    (400, error("API key not valid. Please pass a valid API key."), Outcome.UNAUTHORIZED),
    (500, error("", "overloaded_error"), Outcome.OVERLOADED),
    (500, error("There is no available capacity now"), Outcome.OVERLOADED),
    (
        400,
        {"code": 20012, "message": "Model does not exist. Please check it carefully."},
        Outcome.UNKNOWN_MODEL,
    ),
    (400, {"detail": "Invalid temperature"}, Outcome.INVALID_REQUEST),
    (400, {"error": "Model not found"}, Outcome.UNKNOWN_MODEL),
]


@pytest.mark.parametrize(("status", "body", "outcome"), SAID)
def test_what_the_error_says_sharpens_its_status(status: int, body: dict[str, Any], outcome: Outcome) -> None:
    assert judge(a_reply(status, body)).outcome is outcome


@pytest.mark.parametrize(
    "echo",
    ["the prompt: insufficient balance", "invalid value 'invalid api key'", "you said 'insufficient_quota'"],
)
def test_an_echo_of_the_prompt_never_closes_an_account_or_a_key(echo: str) -> None:
    assert judge(a_reply(400, error(echo, "invalid_request_error"))).outcome is Outcome.INVALID_REQUEST


EMBEDDED = [
    (error("busy", "server_busy", "service_unavailable_error"), Outcome.OVERLOADED),
    (error("Service is too busy. Please try again later."), Outcome.OVERLOADED),
    (error("slow down", 429), Outcome.RATE_LIMITED),
    (error("slow down", "429"), Outcome.RATE_LIMITED),
    (error("", "rate_limit_exceeded"), Outcome.RATE_LIMITED),
    (error("", None, "authentication_error"), Outcome.UNAUTHORIZED),
    (error("", "insufficient_quota"), Outcome.NO_BALANCE),
    (error("Insufficient Balance", "invalid_request_error", "unknown_error"), Outcome.NO_BALANCE),
    (error("bad temperature", "invalid_request_error"), Outcome.INVALID_REQUEST),
    (error("", "context_length_exceeded", "invalid_request_error"), Outcome.CONTEXT_TOO_LONG),
    (error("", "model_not_found"), Outcome.UNKNOWN_MODEL),
    (error("it broke", "internal_error"), Outcome.UNAVAILABLE),
    (error("it broke"), Outcome.UNAVAILABLE),
    ({"error": "it broke"}, Outcome.UNAVAILABLE),
    ({"error": {"message": {"nested": 1}}}, Outcome.UNAVAILABLE),
]


@pytest.mark.parametrize(("body", "outcome"), EMBEDDED)
def test_a_200_holding_an_error_is_that_error(body: dict[str, Any], outcome: Outcome) -> None:
    verdict = judge(a_reply(200, body))
    assert verdict.outcome is outcome
    assert verdict.result is None


def test_an_error_beside_choices_is_still_an_error() -> None:
    assert judge(a_reply(200, {**a_completion(), **error("x", 503)})).outcome is Outcome.OVERLOADED


def test_an_empty_error_field_is_no_error() -> None:
    assert judge(a_reply(200, a_completion(error=None))).outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize(
    ("reason", "content", "outcome"),
    [
        ("insufficient_system_resource", "half an", Outcome.OVERLOADED),
        ("error", "half an", Outcome.UNAVAILABLE),
        ("content_filter", None, Outcome.CONTENT_REFUSED),
        ("content_filter", "", Outcome.CONTENT_REFUSED),
        ("content_filter: PROHIBITED_CONTENT", None, Outcome.CONTENT_REFUSED),
        ("content_filter", "what was let through", Outcome.SUCCEEDED),
        ("length", "cut", Outcome.SUCCEEDED),
        ("tool_calls", None, Outcome.SUCCEEDED),
        (None, "", Outcome.SUCCEEDED),
    ],
)
def test_the_finish_reason_may_take_a_result_back(reason: str, content: str, outcome: Outcome) -> None:
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": reason}
    verdict = judge(a_reply(200, a_completion(choices=[choice])))
    assert verdict.outcome is outcome
    kept = outcome in (Outcome.SUCCEEDED, Outcome.CONTENT_REFUSED)  # a filtered choice reaches chat calls
    assert (verdict.result is not None, verdict.finish is not None) == (kept, kept)
    assert verdict.tokens == 7  # they were used either way


@pytest.mark.parametrize(
    ("trouble", "outcome", "called", "tokens"),
    [
        (TransportErrorKind.NOT_SENT, Outcome.RETURNED, False, 0),
        (TransportErrorKind.UNCONNECTED, Outcome.UNAVAILABLE, True, 0),
        (TransportErrorKind.BROKEN, Outcome.UNAVAILABLE, True, None),
        (TransportErrorKind.CUT, Outcome.MALFORMED, True, None),
        (TransportErrorKind.TIMED_OUT, Outcome.TIMED_OUT, True, None),
        (TransportErrorKind.TOO_LARGE, Outcome.RESPONSE_TOO_LARGE, True, None),
        (TransportErrorKind.ABORTED, Outcome.RETURNED, True, None),
    ],
)
def test_each_trouble_has_its_outcome(
    trouble: TransportErrorKind, outcome: Outcome, called: bool, tokens: int | None
) -> None:
    verdict = judge(TransportError(trouble, "why"))
    assert (verdict.outcome, verdict.called, verdict.tokens) == (outcome, called, tokens)
    assert verdict.message == "why"


def test_a_refusal_whose_body_was_cut_off_is_still_that_refusal() -> None:
    fault = TransportError(TransportErrorKind.CUT, "cut", status=429, headers={"retry-after": "3"})
    verdict = judge(fault)
    assert verdict.outcome is Outcome.RATE_LIMITED
    assert verdict.retry_after_seconds == 3


def test_a_200_cut_off_is_malformed() -> None:
    assert judge(TransportError(TransportErrorKind.CUT, "cut", status=200)).outcome is Outcome.MALFORMED


USAGES = [
    ({"prompt_tokens": 10, "completion_tokens": 3}, TokenUsage(10, 3)),
    ({"prompt_tokens": 10, "completion_tokens": 3, "prompt_cache_hit_tokens": 4}, TokenUsage(10, 3, 4)),
    (
        {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}},
        TokenUsage(10, 3, 8),
    ),
    (
        {"prompt_tokens": 1, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 7}},
        TokenUsage(1, 9, 0, 7),
    ),
    ({"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": None}, TokenUsage(10, 3)),
    ({"prompt_tokens": 10}, None),
    ({"prompt_tokens": -1, "completion_tokens": 3}, None),
    ({"prompt_tokens": True, "completion_tokens": 3}, None),
    ({"prompt_tokens": 2**31, "completion_tokens": 3}, None),
    ({"prompt_tokens": "10", "completion_tokens": 3}, None),
    ([], None),
    (None, None),
]


@pytest.mark.parametrize(("said", "usage"), USAGES)
def test_usage_is_read_in_both_dialects_and_never_guessed(said: Any, usage: TokenUsage | None) -> None:
    verdict = judge(a_reply(200, a_completion(usage=said)))
    assert verdict.outcome is Outcome.SUCCEEDED
    assert verdict.usage == usage
    assert verdict.tokens == (None if usage is None else usage.prompt_tokens + usage.completion_tokens)


@pytest.mark.parametrize(
    ("status", "tokens"), [(400, 0), (401, 0), (429, 0), (503, 0), (500, None), (504, None)]
)
def test_a_refused_call_used_no_tokens_and_a_failed_one_nobody_knows(status: int, tokens: int | None) -> None:
    assert judge(a_reply(status, b"")).tokens == tokens


SCOPES = [
    ("", LimitScope.MODEL),
    ("Rate limit reached", LimitScope.MODEL),
    ("Rate limit reached for gpt-4o in organization org-1 on tokens per min (TPM)", LimitScope.MODEL),
    ("Rate limit reached for this model", LimitScope.MODEL),
    ("This API key has too many requests in flight", LimitScope.KEY),
    ("Requests per key exceeded for model gpt-4o", LimitScope.KEY_MODEL),
    ("Your account reached its concurrency limit", LimitScope.ACCOUNT),
    ("Organization rate limit", LimitScope.ACCOUNT),
    ("Too many requests from this IP", LimitScope.PROVIDER),
    ("This provider is busy: global limit", LimitScope.PROVIDER),
]


@pytest.mark.parametrize(("message", "scope"), SCOPES)
def test_a_429_brakes_what_it_names(message: str, scope: LimitScope) -> None:
    verdict = judge(a_reply(429, error(message, "rate_limit_exceeded")), model="gpt-4o")
    assert verdict.scope is scope


@pytest.mark.parametrize("status", [401, 402])
def test_what_an_upstream_says_of_our_key_or_account_is_passed_on(status: int) -> None:
    assert judge(a_reply(status, error("Ask your administrator."))).message == "Ask your administrator."


def test_the_upstreams_words_are_cut_and_on_one_line() -> None:
    verdict = judge(a_reply(400, error("a\nb" + "x" * 100_000)))
    assert verdict.message.startswith("a b")
    assert len(verdict.message) <= 1000


def test_rate_limit_headers_are_handed_on() -> None:
    headers = {"x-ratelimit-remaining-requests": "7", "ratelimit": '"default";r=50', "server": "x"}
    verdict = judge(Reply(200, headers, orjson.dumps(a_completion())))
    assert set(verdict.hints) == {"x-ratelimit-remaining-requests", "ratelimit"}


@given(
    st.integers(200, 599), st.binary(max_size=60), st.dictionaries(st.text(max_size=9), st.text(max_size=9))
)
def test_no_answer_is_beyond_judging(status: int, body: bytes, headers: dict[str, str]) -> None:
    assert judge(Reply(status, headers, body)).outcome in Outcome


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 600) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["error", "choices", "message", "code", "usage", "finish_reason", "content", "type"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.sampled_from([200, 400, 403, 429, 500]), JSON)
def test_no_shape_of_body_is_beyond_judging(status: int, document: Any) -> None:
    verdict = judge(a_reply(status, orjson.dumps(document)))
    assert (verdict.result is not None) == (verdict.outcome is Outcome.SUCCEEDED)
