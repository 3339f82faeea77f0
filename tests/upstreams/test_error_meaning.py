"""Errors in the words and shapes of many providers, and the outcome that each means."""

from __future__ import annotations

import json
import time
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.settings.provider_profiles import effective_profile, profiles
from app.tasks.domain.attempt import Outcome
from app.upstreams.domain.classify import CallVerdict, classify
from app.upstreams.domain.upstream_error import read_error
from app.upstreams.domain.upstream_words import Meaning, folded
from tests.attempts import NOW, PROFILE, a_completion, a_reply

WAITS = {Outcome.OVERLOADED, Outcome.RATE_LIMITED}


def judge(status: int, body: Any) -> CallVerdict:
    return classify(a_reply(status, body), model="m", now=NOW, parse=orjson.loads, profile=PROFILE)


def openai(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


def text(value: Any, **how: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, **how).encode()


BUSY = [
    "服务器繁忙,请稍后再试",
    "服务器繁忙，请稍后再试。",
    " 服务器 繁忙 ！请 稍后 再试 ",
    "系统繁忙",
    "系统繁忙，请稍后重试",
    "抱歉，当前系统繁忙",
    "当前分组上游负载已饱和，请稍后再试",
    "当前分组 default 上游负载已饱和，请稍后再试",
    "模型正在加载，请稍候",
    "模型正在加载中",
    "该模型当前访问量过大，请您稍后再试",
    "当前服务器负载过高，请稍后",
    "网络繁忙",
    "请稍后再试",
    "伺服器繁忙，請稍後再試",
    "Server is busy, please try later",
    "SERVER BUSY",
    "The server is currently overloaded with other requests.",
    "The model is currently overloaded. Please try again later.",
    "Overloaded",
    "We are currently at capacity",
    "Model gpt2 is currently loading",
    "Service temporarily unavailable",
    "Please try again later.",
    "The service is too busy",
    "This model is currently experiencing high demand. Please try again later.",
    "Server overloaded, please retry shortly",
    "模型繁忙",
    "当前请求人数过多，请稍后",
    "服务器开小差了，请稍后再试",
    "Engine is warming up",
    "当前服务负载较高",
    "系统正忙，请稍候",
    "资源暂时不足",
    "The model is loading, please retry",
    "upstream capacity exceeded",
    "We're experiencing high traffic right now",
    "Too many requests in queue",
    "请求排队中",
    "GPU资源不足，请稍后",
    "当前使用人数较多，请稍后再试",
    "The server is busy. Please try again later.",
    "Server is busy now",
    "Sorry, the server is very busy",
    "服务器忙，请稍后重试",
    "服务器正忙",
    "服务器太忙",
    "当前访问人数过多",
    "模型负载过高",
    "系统负载过高，请稍后再试",
    "当前模型负载较高，请稍后重试",
    "上游服务繁忙",
    "The system is under heavy load",
    "Service is at capacity",
    "Model is at capacity. Please try again later.",
    "Capacity exceeded",
    "No available workers",
    "no instances available",
    "The engine is currently overloaded, please try again later",
    "That model is currently overloaded with other requests.",
    "服务暂时不可用，请稍后再试",
    "Model meta/x is currently loading",
    "模型加载中，请稍后再试",
    "模型启动中",
    "Cold start in progress",
    "服务器压力过大",
    "当前渠道繁忙",
    "Busy, try later",
    "server_busy",
    "DeepSeek 服务器繁忙，请稍后再试。",
    "系统繁忙(code: 1305)",
    "【系统提示】服务器繁忙",
]
RATE = [
    "请求过于频繁，请稍后再试",
    "您的请求过于频繁",
    "触发限流",
    "已被限流，请降低频率",
    "请求频率过高",
    "Rate limit exceeded",
    "rate limited",
    "Too Many Requests",
    "Requests rate limit exceeded, please try again later",
    "请求过多，请稍后再试",
    "请求太多",
    "您的账户已达到速率限制",
    "达到请求速率上限",
    "Rate limit reached for requests",
    "You are sending requests too quickly",
    "QPS超限",
    "qps limit reached",
    "TPM limit exceeded",
    "已达到每分钟请求上限",
    "访问太频繁，请稍后",
    "触发频率限制",
    "Request was rate limited",
    "Request rate limit exceeded",
    "Request throttled",
    "API rate limit exceeded",
    "You've hit the rate limit",
    "Concurrency exceeded",
    "超出并发限制",
    "您的账户已达到并发上限",
    "已超过每分钟请求次数限制",
    "调用次数超限",
]
DEAD_KEY = [
    "API key not valid. Please pass a valid API key.",
    "API key expired. Please renew the API key.",
    "API KEY NOT VALID",
    "API 密钥无效。请传递有效的 API 密钥。",
    "Your API key was reported as leaked. Please use another API key.",
    "Incorrect API key provided: sk-abc***xyz. You can find your API key at https://example.com.",
    "invalid x-api-key",
    "Invalid API-key provided.",
    "Invalid token",
    "Authentication Fails (no such user)",
    "Authentication Fails, Your api key: ****xxxx is invalid",
    "Invalid Authentication",
    "Unauthorized",
    "无效的令牌",
    "该令牌状态不可用",
    "该令牌已过期",
    "身份验证失败",
    "身份验证失败。",
    "鉴权失败",
    "API Key 无效",
    "apikey已过期",
    "Your access was terminated due to violation of our policies",
    "litellm.AuthenticationError: AuthenticationError: OpenAIException - Incorrect API key provided: sk-x",
    "Error code: 401 - invalid api key",
    "令牌失效",
    "API key 已被禁用",
    "密钥已过期",
    "invalid key",
    "Bad credentials",
    "The API Key appears to be invalid or may have expired",
    "API Key not found. Please pass a valid API key.",
    "Authentication parameter not received in Header",
    "该密钥无效",
    "Invalid api_key",
    "The api key is invalid",
    "Your API key is invalid, expired or revoked",
    "api_key is invalid",
    "The provided API key is invalid",
    "Provided API key has expired",
    "无效的API Key",
    "无效的 API 密钥",
    "APIKey无效",
    "API密钥不正确",
    "登录失效",
    "身份验证失败，请检查API Key",
    "Token 无效",
    "token已过期",
    "认证失败：无效的凭证",
    "访问令牌无效",
    "鉴权不通过",
    "Invalid Key",
    "Key expired",
    "API token invalid",
    "api key is missing",
    "API Key inválida",
    "你的 API key 无效或已过期",
    "提供的API密钥无效",
    "令牌错误",
    "授权失败",
    "AuthenticationError: invalid api key",
    "Invalid API Key format",
    "Access token invalid or expired",
    "Authorization failed",
    "API密钥已被吊销",
    "Your API key has been suspended",
    "The API key doesn't exist",
    "User account is disabled",
    "key无效",
    "This API key has been deleted",
    "密钥已被禁用",
    "The API key provided has been revoked",
]
NO_BALANCE = [
    "Insufficient Balance",
    "Sorry, your account balance is insufficient",
    "Insufficient account balance",
    "Your credit balance is too low to access the Anthropic API.",
    "Insufficient credits. Add more at https://example.com",
    "Access denied, please make sure your account is in good standing.",
    "余额不足",
    "账户余额不足",
    "您的账户已欠费，请充值后重试。",
    "账户已欠费",
    "余额不足或无可用资源包,请充值。",
    "API调用失败：账户余额不足",
    "用户额度不足, 剩余额度: 0",
    "该令牌额度已用尽",
    "帐户余额 不足！",
    "账户欠费",
    "账号余额不足，请充值",
    "余额为0",
    "您的余额不足",
    "Arrears",
    "out of credit",
    "Your account is overdue",
    "Insufficient funds",
    "You have no remaining credits",
    "You have run out of credits",
    "The free quota has been exhausted",
    "账户已欠费，请及时充值",
    "当前余额不足以完成本次请求",
    "Balance not enough",
    "Your balance is insufficient",
    "Your account has insufficient balance",
    "insufficient_balance",
    "Insufficient account funds",
    "Account balance is zero",
    "Account has no credit",
    "Account in arrears",
    "Please recharge your account",
    "请先充值",
    "免费额度已用完",
    "套餐已用完",
    "您的套餐额度已用尽",
    "账户余额已不足",
    "账户可用余额不足",
    "欠费停机",
    "帐户已欠费",
    "Your prepayment credits are depleted",
    "You exceeded your current balance",
    "This account has run out of funds",
    "Billing: payment required",
    "Payment Required",
    "credit balance exhausted",
    "您的账户余额不足，请充值后再试",
    "quota is insufficient",
    "insufficient quota",
    "Your credit has been used up",
]


@pytest.mark.parametrize("status", [200, 400, 403, 429, 500, 503])
@pytest.mark.parametrize("message", BUSY)
def test_busy_is_busy_in_any_words_and_status(message: str, status: int) -> None:
    assert judge(status, openai(message)).outcome in WAITS


@pytest.mark.parametrize("status", [200, 400, 403, 429, 500])
@pytest.mark.parametrize("message", RATE)
def test_too_many_requests_is_waited_for_in_any_words_and_status(message: str, status: int) -> None:
    assert judge(status, openai(message)).outcome is Outcome.RATE_LIMITED


@pytest.mark.parametrize("status", [200, 400, 401, 403, 422, 429, 500])
@pytest.mark.parametrize("message", DEAD_KEY)
def test_a_dead_key_is_the_keys_fault_in_any_words_and_status(message: str, status: int) -> None:
    verdict = judge(status, openai(message, type="invalid_request_error"))
    assert verdict.outcome is Outcome.UNAUTHORIZED
    assert verdict.message


@pytest.mark.parametrize("status", [200, 400, 401, 402, 403, 429, 500, 503])
@pytest.mark.parametrize("message", NO_BALANCE)
def test_no_balance_rests_the_account_in_any_words_and_status(message: str, status: int) -> None:
    assert judge(status, openai(message)).outcome is Outcome.NO_BALANCE


SHAPES = {
    "object": lambda m: {"error": {"message": m}},
    "text": lambda m: {"error": m},
    "list": lambda m: [{"error": {"message": m}}],
    "list inside": lambda m: {"error": [{"message": m}]},
    "list of texts": lambda m: {"error": [m]},
    "errors": lambda m: {"success": False, "errors": [{"code": 10000, "message": m}]},
    "code and msg": lambda m: {"code": 50001, "msg": m, "data": None},
    "code and message": lambda m: {"code": "50001", "message": m},
    "error_code": lambda m: {"error_code": 336100, "error_msg": m},
    "base_resp": lambda m: {"base_resp": {"status_code": 1000, "status_msg": m}},
    "Response": lambda m: {"Response": {"Error": {"Code": "X", "Message": m}, "RequestId": "1"}},
    "object error": lambda m: {"object": "error", "message": m, "type": "x", "code": 1},
    "detail": lambda m: {"error": {"detail": m}},
    "detail inside": lambda m: {"detail": {"error": {"message": m}}, "status": "error"},
    "description": lambda m: {"error": "some_word", "error_description": m},
    "true": lambda m: {"error": True, "message": m},
    "nested": lambda m: {"error": {"message": json.dumps({"error": {"code": 77, "message": m}})}},
    "nested list": lambda m: {"error": {"message": json.dumps([{"error": {"message": m}}])}},
    "nested twice": lambda m: {"error": json.dumps({"error": {"message": json.dumps({"error": m})}})},
    "nested after words": lambda m: {
        "error": {"message": "Error code: 7 - " + str({"error": {"message": m}})}
    },
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("message", "outcome"),
    [
        ("服务器繁忙，请稍后再试", Outcome.OVERLOADED),
        ("Server is busy", Outcome.OVERLOADED),
        ("请求过于频繁", Outcome.RATE_LIMITED),
        ("API key not valid. Please pass a valid API key.", Outcome.UNAUTHORIZED),
        ("您的账户已欠费，请充值后重试。", Outcome.NO_BALANCE),
    ],
)
@pytest.mark.parametrize("status", [200, 400])
def test_the_words_are_found_in_every_shape(shape: str, message: str, outcome: Outcome, status: int) -> None:
    assert judge(status, SHAPES[shape](message)).outcome is outcome


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, "服务器繁忙,请稍后再试".encode(), Outcome.OVERLOADED),
        (200, b"\xef\xbb\xbf" + "服务器繁忙".encode(), Outcome.OVERLOADED),
        (200, text("Server is busy"), Outcome.OVERLOADED),
        (200, b"<html><head><title>Service Unavailable</title></head></html>", Outcome.OVERLOADED),
        (500, "系统繁忙".encode(), Outcome.OVERLOADED),
        (400, b"Invalid API key", Outcome.UNAUTHORIZED),
        (200, b"<html>welcome</html>", Outcome.MALFORMED),
        (200, b"hello", Outcome.MALFORMED),
        (500, b"<html><title>500 Internal Server Error</title></html>", Outcome.UNAVAILABLE),
    ],
)
def test_plain_words_and_pages_are_read_too(status: int, body: bytes, outcome: Outcome) -> None:
    assert judge(status, body).outcome is outcome


CODES = [
    ({"error": "rate limited", "code": 429}, Outcome.RATE_LIMITED),
    ({"error": "nope", "code": 429}, Outcome.RATE_LIMITED),
    ({"error": "nope", "code": "429"}, Outcome.RATE_LIMITED),
    ({"error": "nope", "status": 503}, Outcome.OVERLOADED),
    ({"error": "nope", "status_code": 401}, Outcome.UNAUTHORIZED),
    ({"error": "nope", "statusCode": 402}, Outcome.NO_BALANCE),
    ({"error": {"message": "nope"}, "code": 429}, Outcome.RATE_LIMITED),
    ({"error": {"message": "nope", "status": "RESOURCE_EXHAUSTED"}}, Outcome.RATE_LIMITED),
    ({"error": {"message": "nope", "status": "UNAVAILABLE"}}, Outcome.OVERLOADED),
    ({"code": "Throttling.RateQuota", "message": "nope"}, Outcome.RATE_LIMITED),
    ({"code": "Arrearage", "message": "nope"}, Outcome.NO_BALANCE),
    ({"code": "InvalidApiKey", "message": "nope"}, Outcome.UNAUTHORIZED),
    ({"code": "DataInspectionFailed", "message": "nope"}, Outcome.CONTENT_REFUSED),
    ({"error": {"code": "ServerOverloaded", "message": "nope"}}, Outcome.OVERLOADED),
    ({"error": {"message": "您输入的内容包含敏感词"}}, Outcome.CONTENT_REFUSED),
    ({"error": {"message": "Content Exists Risk"}}, Outcome.CONTENT_REFUSED),
]


@pytest.mark.parametrize(("body", "outcome"), CODES)
def test_a_code_counts_wherever_it_stands(body: dict[str, Any], outcome: Outcome) -> None:
    assert judge(200, body).outcome is outcome


def test_googles_reason_is_exact_where_its_message_is_in_another_tongue() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
    body = [
        {
            "error": {
                "code": 400,
                "message": "Clé non valide",
                "status": "INVALID_ARGUMENT",
                "details": details,
            }
        }
    ]
    assert judge(400, body).outcome is Outcome.UNAUTHORIZED


MERELY_MENTIONED = [
    (400, openai("the prompt: insufficient balance"), Outcome.INVALID_REQUEST),
    (
        400,
        openai("Invalid value: '服务器繁忙,请稍后再试'. Supported values are: 'a'."),
        Outcome.INVALID_REQUEST,
    ),
    (400, openai("messages[0].content: 'API key not valid' is too short"), Outcome.INVALID_REQUEST),
    (400, openai("Invalid token in the prompt at position 5"), Outcome.INVALID_REQUEST),
    (400, openai("Unknown tool 'server is busy'"), Outcome.INVALID_REQUEST),
    (400, openai("参数错误：messages 中的 服务器繁忙 不合法"), Outcome.INVALID_REQUEST),
    (400, openai("参数错误：余额不足"), Outcome.INVALID_REQUEST),
    (400, openai('messages: [{"error": {"message": "API key not valid"}}]'), Outcome.INVALID_REQUEST),
    (
        422,
        {"detail": [{"loc": ["body", "x"], "msg": "bad", "input": "insufficient balance"}]},
        Outcome.INVALID_REQUEST,
    ),
    (400, openai("内容违规：服务器繁忙"), Outcome.CONTENT_REFUSED),
    (403, openai("Flagged as spam: 'server is busy, try again later'"), Outcome.CONTENT_REFUSED),
    (403, openai("The text says: server is busy"), Outcome.FORBIDDEN),
    (200, openai("Content policy violation: 'try again later'"), Outcome.CONTENT_REFUSED),
    (500, openai("the prompt: insufficient balance"), Outcome.UNAVAILABLE),
    (500, openai("Internal error. Please try again later."), Outcome.UNAVAILABLE),
    (200, openai("服务器内部错误，请稍后再试"), Outcome.UNAVAILABLE),
    (429, openai("You exceeded your current quota", status="RESOURCE_EXHAUSTED"), Outcome.RATE_LIMITED),
    (400, openai("This model's maximum context length is 4096; rate limit"), Outcome.CONTEXT_TOO_LONG),
    (400, openai("downloading the image failed"), Outcome.INVALID_REQUEST),
    (400, openai("Invalid key in the JSON schema: 'token'"), Outcome.INVALID_REQUEST),
    (400, openai("user: insufficient balance"), Outcome.INVALID_REQUEST),
    (400, openai("系统提示词不能为空"), Outcome.INVALID_REQUEST),
    (400, openai("模型参数错误"), Outcome.INVALID_REQUEST),
    (400, openai("Token 数量超过限制"), Outcome.INVALID_REQUEST),
    (400, openai("account: field required"), Outcome.INVALID_REQUEST),
    (400, openai("Unable to process the image, try again later"), Outcome.INVALID_REQUEST),
    (400, openai("You have sent an invalid value"), Outcome.INVALID_REQUEST),
]


@pytest.mark.parametrize(("status", "body", "outcome"), MERELY_MENTIONED)
def test_what_is_merely_mentioned_decides_nothing(
    status: int, body: dict[str, Any], outcome: Outcome
) -> None:
    assert judge(status, body).outcome is outcome


@pytest.mark.parametrize(
    "message", ["服务器繁忙,请稍后再试", "API key not valid", "余额不足", "rate limit exceeded"]
)
@pytest.mark.parametrize("content", ["{}", "so: {}"])
def test_an_answer_that_says_such_words_is_an_answer(message: str, content: str) -> None:
    choice = {
        "message": {"role": "assistant", "content": content.format(message)},
        "finish_reason": "stop",
    }
    body = a_completion(choices=[choice], message="x", code=0)
    assert judge(200, body).outcome is Outcome.SUCCEEDED


def test_fastapis_list_keeps_field_and_message() -> None:
    fault = {"type": "extra", "loc": ["body", "logprobs"], "msg": "extra fields not permitted", "input": 3}
    other = {"loc": ["body", "messages", 0, "content"], "msg": "field required"}
    said = "logprobs: extra fields not permitted; messages.0.content: field required"
    for body in (
        {"detail": [fault, other]},
        {"object": "error", "message": {"detail": [fault, other]}},
        {"error": {"message": {"detail": [fault, other]}}},
        {"error": {"message": [fault, other]}},
    ):
        verdict = judge(422, body)
        assert (verdict.outcome, verdict.message) == (Outcome.INVALID_REQUEST, said)


def test_the_client_reads_the_words_inside_a_nested_document() -> None:
    inner = {"error": {"message": "temperature must be at most 2", "code": 400}}
    assert judge(400, openai(json.dumps(inner))).message == "temperature must be at most 2"


@pytest.mark.parametrize("name", profiles())
@pytest.mark.parametrize("meaning", list(Meaning))
def test_no_word_of_the_data_is_lost_in_the_folding(name: str, meaning: Meaning) -> None:
    words = effective_profile(name)["words"].get(meaning, {})
    for phrase in (*words.get("begins", ()), *words.get("says", ())):
        assert all(folded(part) for part in phrase.removesuffix("$").split("*")), phrase


@given(st.text(max_size=80))
def test_folding_is_done_once(message: str) -> None:
    assert folded(folded(message)) == folded(message)


@pytest.mark.parametrize(
    "message",
    ["error " * 160, "1" * 1000, "model " * 160, "api key " * 120, "模型" * 500, "error" * 200, "{" * 1000],
)
def test_no_message_takes_long(message: str) -> None:
    begun = time.process_time()
    judge(400, openai(message))
    assert time.process_time() - begun < 0.5


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=9),
        lambda i: (
            st.lists(i, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "error",
                        "message",
                        "detail",
                        "loc",
                        "msg",
                        "code",
                        "status",
                        "details",
                        "reason",
                        "errors",
                    ]
                ),
                i,
                max_size=4,
            )
        ),
    )
)
def test_no_shape_is_beyond_reading(document: Any) -> None:
    assert len(read_error(document, PROFILE.shape).message) <= 1000


DEAD = [
    (
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "API key not valid. Please pass a valid API key.",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
    ),
    (400, {"error": {"code": 400, "message": "API key expired. Please renew the API key."}}),
    (400, openai('{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key."}}')),
    (400, {"error": {"message": "{'error': {'message': 'Invalid API key provided', 'code': 'x'}}"}}),
    (
        403,
        {
            "error": {
                "code": 403,
                "message": "Your API key was reported as leaked. Please use another API key.",
            }
        },
    ),
    (401, {"error": {"message": "User not found.", "code": 401}}),
    (500, {"code": 1, "msg": "无效的令牌 (request id: 2026)"}),
    (400, {"detail": "Invalid API key"}),
    (422, {"detail": "Could not validate credentials"}),
    (400, {"errors": [{"message": "Authentication Fails (no such user)", "code": "x"}]}),
    (400, b"Invalid API key"),
    (200, {"code": 401, "message": "API Key 已过期", "data": None}),
    (200, {"base_resp": {"status_code": 9, "status_msg": "身份验证失败"}}),
    (403, b"<html><head><title>Invalid API key</title></head><body></body></html>"),
    (429, openai("Your access was terminated due to violation of our policies")),
    (403, openai("Your account has been suspended.")),
    (400, openai("This organization has been disabled.")),
    (429, openai("您的账户已被锁定，请联系客服解锁")),
    (403, {"code": 403, "msg": "该账号已被封禁"}),
]
UNPAID = [
    (429, {"error": {"code": "9", "message": "您的账户已欠费，请充值后重试。"}}),
    (403, {"code": 7, "message": "Sorry, your account balance is insufficient", "data": None}),
    (401, {"error": {"type": "CreditsError", "message": "Insufficient balance"}}),
    (
        400,
        openai("Your credit balance is too low to access the API. Please go to Plans & Billing to upgrade."),
    ),
    (403, openai("Your newly created team doesn't have any credits or licenses yet.")),
    (
        429,
        openai(
            "Your team has either used all available credits or reached its monthly spending limit.",
            code="budget_exceeded",
        ),
    ),
    (402, {"detail": "Payment Required"}),
    (
        400,
        {
            "error": {
                "type": "budget_exceeded",
                "message": "Budget has been exceeded! Current cost: 2, Max budget: 1",
            }
        },
    ),
    (403, openai("用户额度不足, 剩余额度: ＄0.00")),
    (429, [{"error": {"message": "Your prepayment credits are depleted."}}]),
    (403, {"error": {"message": "This request requires more credits, or fewer max_tokens.", "code": 402}}),
    (
        400,
        {"code": "Arrearage", "message": "Access denied, please make sure your account is in good standing."},
    ),
    (200, {"error": "餘額不足，請先儲值"}),
]


@pytest.mark.parametrize(("status", "body"), DEAD)
def test_a_dead_key_is_never_the_requests_fault(status: int, body: Any) -> None:
    assert judge(status, body).outcome is Outcome.UNAUTHORIZED


@pytest.mark.parametrize(("status", "body"), UNPAID)
def test_an_unpaid_account_is_never_the_requests_fault(status: int, body: Any) -> None:
    assert judge(status, body).outcome is Outcome.NO_BALANCE


CONTENT = [
    (
        403,
        {
            "error": {
                "code": 403,
                "message": "m requires moderation. Your input was flagged for violence.",
                "metadata": {},
            }
        },
    ),
    (403, openai("Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO")),
    (
        403,
        b"<html><title>403 Forbidden</title><h1>Request blocked by web application firewall</h1></html>",
    ),
    (
        403,
        b"<html><title>Attention Required! | Cloudflare</title><h1>Sorry, you have been blocked</h1></html>",
    ),
    (403, {"code": 403, "msg": "您的请求包含敏感内容，已被拦截"}),
    (400, openai("The request was rejected because it was considered high risk", type="content_filter")),
    (400, {"detail": "Prompt blocked by guardrail"}),
    (
        400,
        {
            "error": {
                "code": "DataInspectionFailed",
                "message": "Input data may contain inappropriate content.",
            }
        },
    ),
]


@pytest.mark.parametrize(("status", "body"), CONTENT)
def test_refused_content_is_no_keys_fault(status: int, body: Any) -> None:
    assert judge(status, body).outcome is Outcome.CONTENT_REFUSED


def test_a_request_above_a_limit_by_itself_does_not_wait_for_ever() -> None:
    said = "Request too large for gpt-x on tokens per min (TPM): Limit 10000, Requested 12000."
    assert (
        judge(429, openai(said, type="tokens", code="rate_limit_exceeded")).outcome
        is Outcome.CONTEXT_TOO_LONG
    )


LOADING = [
    (503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}),
    (500, {"error": "Model x is currently loading", "estimated_time": 20.0}),
    (500, {"error": {"message": "llm server loading model"}}),
    (400, {"error": {"message": "模型未就绪，请稍后重试"}}),
    (500, {"error": {"message": "The model is warming up"}}),
    (529, openai("Overloaded", type="overloaded_error")),
]


@pytest.mark.parametrize(("status", "body"), LOADING)
def test_a_model_that_is_loading_is_waited_for(status: int, body: Any) -> None:
    assert judge(status, body).outcome is Outcome.OVERLOADED
