"""Repairs: remembered as a note, applied to the request."""

import json
from typing import Any

import pytest

from app.upstreams.domain.request_parameters import ParameterFix, known_fixes, next_fix, remembered_fixes
from tests.attempts import PROFILE

ALL = [
    ParameterFix("clamp", "max_tokens", "8192"),
    ParameterFix("rename", "max_tokens", "max_completion_tokens"),
    ParameterFix("drop", "seed"),
    ParameterFix("role", "developer", "system"),
    ParameterFix("clamp", "top_p", "(0.0..1.0)"),
    ParameterFix("fit", "max_tokens", "3096"),
    ParameterFix("drop", "messages.name"),
]


@pytest.mark.parametrize("repair", ALL)
def test_a_repair_is_remembered_among_what_a_task_avoids(repair: ParameterFix) -> None:
    assert remembered_fixes(("key-1", str(repair), "unknown:key-1")) == (repair,)


def test_a_note_can_travel_in_a_list_separated_by_commas() -> None:
    assert all("," not in str(repair) and "|" not in str(repair) for repair in ALL)


@pytest.mark.parametrize(
    ("repair", "before", "after"),
    [
        (ALL[0], {"max_tokens": 9000, "n": 1}, {"max_tokens": 8192, "n": 1}),
        (ALL[0], {"max_tokens": 10}, {"max_tokens": 10}),
        (ALL[0], {}, {}),
        (ALL[1], {"max_tokens": 5}, {"max_completion_tokens": 5}),
        (ALL[1], {"max_tokens": 5, "max_completion_tokens": 3}, {"max_completion_tokens": 3}),
        (ALL[2], {"seed": 1, "messages": []}, {"messages": []}),
        (
            ALL[3],
            {"messages": [{"role": "developer"}, {"role": "user"}, 3]},
            {"messages": [{"role": "system"}, {"role": "user"}, 3]},
        ),
        (ALL[4], {"top_p": 1}, {"top_p": 0.999}),
        (ALL[4], {"top_p": 1.0}, {"top_p": 0.999}),
        (ALL[4], {"top_p": 0}, {"top_p": 0.001}),
        (ALL[4], {"top_p": "much"}, {"top_p": "much"}),
        (ParameterFix("clamp", "max_tokens", "1..8193)"), {"max_tokens": 9000}, {"max_tokens": 8192}),
        (ParameterFix("clamp", "temperature", "0..2"), {"temperature": 2.5}, {"temperature": 2}),
        (ParameterFix("clamp", "temperature", "0..2"), {"temperature": -1}, {"temperature": 0}),
        (ParameterFix("clamp", "temperature", "..1.5"), {"temperature": 2}, {"temperature": 1.5}),
        (ALL[6], {"messages": [{"role": "user", "name": "x"}]}, {"messages": [{"role": "user"}]}),
    ],
)
def test_a_repair_changes_its_parameter_alone(repair: ParameterFix, before: dict, after: dict) -> None:
    assert repair.apply(before) == after


USER = [{"role": "user", "content": "hi"}]
LONG = "This model's maximum context length is 4096 tokens. "
# An upstream's words, what was sent, and what is sent next; None: nothing would help.
SAID: list[tuple[str, dict[str, Any], dict[str, Any] | None]] = [
    ("the valid range of temperature is [0, 2]", {"temperature": 3}, {"temperature": 2}),
    (
        "Invalid temperature value, the valid range of temperature is [0, 2].",
        {"temperature": -1},
        {"temperature": 0},
    ),
    (
        "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]",
        {"max_tokens": 20000},
        {"max_tokens": 8192},
    ),
    ("Range of max_tokens should be [1, 2048]", {"max_tokens": 4096}, {"max_tokens": 2048}),
    (
        "<400> InternalError.Algo.InvalidParameter: Range of top_p should be (0.0, 1.0)",
        {"top_p": 1.0},
        {"top_p": 0.999},
    ),
    ("Input validation error: `top_p` must be > 0.0 and < 1.0", {"top_p": 1}, {"top_p": 0.999}),
    ("top_p must be in (0, 1], got 1.5.", {"top_p": 1.5}, {"top_p": 1}),
    ("temperature: range: 0..1", {"temperature": 1.5}, {"temperature": 1}),
    ("temperature: range: -1 or 0..1", {"temperature": 1.5}, {"temperature": 1}),
    ("temperature: Input should be less than or equal to 1.5", {"temperature": 2}, {"temperature": 1.5}),
    (
        "Invalid 'max_tokens': integer above maximum value. Expected a value <= 16384, but got 20000 instead.",
        {"max_tokens": 20000},
        {"max_tokens": 16384},
    ),
    (
        "Invalid 'top_p': decimal above maximum value. Expected a value <= 1, but got 2 instead.",
        {"top_p": 2},
        {"top_p": 1},
    ),
    (
        "max_tokens: 100000 > 8192, which is the maximum allowed number of output tokens for this model",
        {"max_tokens": 100000},
        {"max_tokens": 8192},
    ),
    (
        "max_tokens is too large: 100000. This model supports at most 16384 completion tokens.",
        {"max_tokens": 100000},
        {"max_tokens": 16384},
    ),
    (
        "it has a maxOutputTokens value of 100000 but the supported range is from 1 (inclusive) to 8193 (exclusive).",
        {"max_tokens": 100000},
        {"max_tokens": 8192},
    ),
    ("max_tokens参数取值范围[1,4096]", {"max_tokens": 9000}, {"max_tokens": 4096}),
    ("temperature 的取值范围为 (0, 1]，请检查参数", {"temperature": 1.2}, {"temperature": 1}),
    ("参数错误：max_tokens不能超过8192", {"max_tokens": 9000}, {"max_tokens": 8192}),
    ("max_tokens must be less than or equal to 8192", {"max_tokens": 9000}, {"max_tokens": 8192}),
    ("frequency_penalty must be between -2 and 2", {"frequency_penalty": 5.0}, {"frequency_penalty": 2}),
    (
        LONG + "However, you requested 5000 tokens (1000 in the messages, 4000 in the completion).",
        {"max_tokens": 4000},
        {"max_tokens": 3096},
    ),
    (
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 10000. This model's maximum context length is 4096 "
            "tokens and your request has 12 input tokens (10000 > 4096 - 12)."
        ),
        {"max_completion_tokens": 10000},
        {"max_completion_tokens": 4084},
    ),
    (
        (
            "This model's maximum context length is 128,000 tokens. However, you requested 65535 output tokens and "
            "your prompt contains at least 62466 input tokens, for a total of at least 128001 tokens."
        ),
        {"max_tokens": 65535},
        {"max_tokens": 49151},
    ),
    (
        (
            "This endpoint's maximum context length is 32768 tokens. However, you requested about 40008 tokens (8 of "
            "text input, 40000 in the output)."
        ),
        {"max_tokens": 40000},
        {"max_tokens": 32760},
    ),
    (
        "`inputs` tokens + `max_new_tokens` must be <= 4097. Given: 1000 `inputs` tokens and 4000 `max_new_tokens`",
        {"max_tokens": 4000},
        {"max_tokens": 3097},
    ),
    (
        "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length",
        {"max_tokens": 20000},
        {"max_tokens": 10000},
    ),
    (
        (
            "Requested token count exceeds the model's maximum context length of 8192 tokens. You requested a total of "
            "9000 tokens: 1000 tokens from the input messages and 8000 tokens for the completion."
        ),
        {"max_tokens": 8000},
        {"max_tokens": 7192},
    ),
    (LONG + "However, your messages resulted in 5000 tokens.", {"max_tokens": 10}, None),
    (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        {"max_tokens": 5},
        {"max_completion_tokens": 5},
    ),
    ("Unsupported parameter: 'temperature' is not supported with this model.", {"temperature": 1}, {}),
    ("Unrecognized request argument supplied: top_k", {"top_k": 1}, {}),
    ("Unknown parameter: 'seed'.", {"seed": 1}, {}),
    ("Unsupported value: 'temperature' does not support 0.2 with this model.", {"temperature": 0.2}, {}),
    ('Invalid JSON payload received. Unknown name "seed": Cannot find field.', {"seed": 1}, {}),
    ("property 'logprobs' is unsupported", {"logprobs": True}, {}),
    (
        "litellm.UnsupportedParamsError: azure does not support parameters: ['logit_bias'], for model=x",
        {"logit_bias": {}},
        {},
    ),
    ("Argument not supported on this model: presencePenalty", {"presence_penalty": 1}, {}),
    ("Additional properties are not allowed ('seed' was unexpected)", {"seed": 1}, {}),
    ("body.seed: Extra inputs are not permitted", {"seed": 1}, {}),
    ("不支持参数 seed", {"seed": 1}, {}),
    (
        "temperature and top_p cannot both be specified for this model.",
        {"temperature": 1, "top_p": 1},
        {"temperature": 1},
    ),
    ("Unsupported parameter: 'messages' is not supported with this model.", {}, None),
    ("Unknown parameter: 'response_format'.", {"response_format": {}}, None),
    ("Unknown parameter: 'seed'.", {}, None),
    ("Invalid request", {"seed": 1}, None),
]


@pytest.mark.parametrize(("words", "sent", "then"), SAID)
def test_what_an_upstream_says_suggests_what_to_send(
    words: str, sent: dict[str, Any], then: dict[str, Any] | None
) -> None:
    request = {"messages": USER, **sent}
    fix = next_fix(json.dumps(request), PROFILE.phrases.suggested(words), (), streamed=False)
    assert (fix.apply(request) if fix else None) == ({"messages": USER, **then} if then is not None else None)


@pytest.mark.parametrize(
    "words",
    [
        "messages[0].role: unknown variant `developer`, expected one of `system`, `user`, `assistant`, `tool`",
        "'developer' is not one of ['system', 'assistant', 'user', 'tool', 'function'] - 'messages.0.role'",
        "Invalid value: 'developer'. Supported values are: 'system', 'assistant', 'user', and 'tool'.",
        "Unexpected role 'developer' after role 'user'",
        "role 'developer' is not supported",
        "不支持的角色：developer",
    ],
)
def test_a_role_that_is_refused_is_replaced(words: str) -> None:
    request = json.dumps({"messages": [{"role": "developer", "content": "x"}, *USER]})
    fix = next_fix(request, PROFILE.phrases.suggested(words), (), streamed=False)
    assert fix == ParameterFix("role", "developer", "system")
    assert (
        next_fix(json.dumps({"messages": USER}), PROFILE.phrases.suggested(words), (), streamed=False) is None
    )


@pytest.mark.parametrize(
    "words",
    [
        "property 'stream_options' is unsupported, did you mean 'stream'?",
        "stream_options.include_usage: Extra inputs are not permitted",
        "Unrecognized request argument supplied: stream_options",
        "stream_options is not supported.",
    ],
)
def test_stream_options_are_ours_to_leave_out(words: str) -> None:
    suggested = PROFILE.phrases.suggested(words)
    request = json.dumps({"messages": USER})
    assert next_fix(request, suggested, (), streamed=True) == ParameterFix("drop", "stream_options")
    assert next_fix(request, suggested, (), streamed=False) is None


def test_a_field_of_messages_is_left_out_of_all_of_them() -> None:
    words = (
        "'messages.2' : for 'role:assistant' ... ('messages.2' : property 'reasoning_content' is unsupported)"
    )
    request = json.dumps(
        {"messages": [*USER, {"role": "assistant", "content": "a", "reasoning_content": "b"}]}
    )
    fix = next_fix(request, PROFILE.phrases.suggested(words), (), streamed=False)
    assert fix == ParameterFix("drop", "messages.reasoning_content")


def test_the_parameter_that_an_error_names_apart_is_read() -> None:
    suggested = PROFILE.phrases.suggested("Extra inputs are not permitted", "seed")
    assert next_fix('{"messages":[],"seed":1}', suggested, (), streamed=False) == ParameterFix("drop", "seed")


def test_known_fixes_are_noted_where_they_change_something() -> None:
    known = [*ALL, ParameterFix("drop", "stream_options")]
    request = json.dumps({"messages": [{"role": "developer", "content": "x"}], "seed": 1, "max_tokens": 10})
    assert known_fixes(request, known, streamed=False) == (str(ALL[1]), str(ALL[2]), str(ALL[3]))
    assert known_fixes('{"messages":[]}', known, streamed=False) == ()
    assert known_fixes('{"messages":[]}', known, streamed=True) == ("repair:drop:stream_options:",)


def test_only_what_holds_for_other_requests_lasts() -> None:
    assert not ParameterFix("fit", "max_tokens", "9").lasts
    assert not ParameterFix("omit", "top_p").lasts
    assert all(fix.lasts for fix in ALL if fix.how != "fit")
