"""What upstreams say when they refuse, in English and Chinese, by meaning; and how it is matched.

`codes` are whole words of an error's code, type, status or reasons. `begins` are openings of a message, after words
that carry no meaning (`FILLERS`): the only words that count where a message may echo what the client wrote. `says` may
appear anywhere. Case, spaces and punctuation do not matter; `*` matches up to 250 characters, `$` the end of the
message, and `|` separates phrases.

Sources: the error pages of OpenAI, Anthropic, Google Gemini, DeepSeek, Moonshot, Zhipu, DashScope, Volcengine,
SiliconFlow, MiniMax, Tencent, OpenRouter, Hugging Face, and of the gateways one-api, new-api and LiteLLM.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum


class Meaning(StrEnum):
    """What an error's words can mean."""

    NO_BALANCE = "no_balance"
    DEAD_KEY = "dead_key"
    CONTEXT_TOO_LONG = "context_too_long"
    CONTENT_REFUSED = "content_refused"
    UNKNOWN_MODEL = "unknown_model"
    FORBIDDEN = "forbidden"
    BUSY = "busy"
    LATER = "later"  # "try again later": busy, unless something broke
    RATE_LIMITED = "rate_limited"
    INVALID = "invalid"
    BROKEN = "broken"


def _listed(phrases: str) -> tuple[str, ...]:
    return tuple(" ".join(phrase.split()) for phrase in phrases.split("|"))


WORDS: dict[Meaning, dict[str, tuple[str, ...]]] = {
    Meaning.NO_BALANCE: {
        "codes": _listed(
            """
            insufficient_quota | insufficient_balance | insufficient_account_balance |
            insufficient_credits | insufficient_funds | insufficient_user_quota |
            pre_consume_token_quota_failed | payment_required | billing_error | billing_not_active |
            billing_hard_limit_reached | BILLING_DISABLED | exceeded_current_quota_error | arrearage |
            AccountOverdueError | CreditsError | AllocationQuota.FreeTierOnly
            """
        ),
        "begins": _listed(
            """
            insufficient balance | insufficient account balance | insufficient credit |
            insufficient funds | insufficient user quota | not enough balance | not enough credits |
            balance is insufficient | balance insufficient | balance is not enough | balance not enough |
            account balance | credit balance is too low | credit balance too low | credit limit exceeded |
            you have insufficient | you have run out of credits | you do not have enough credits |
            you don't have enough credits | out of credits | no credits | payment required |
            billing hard limit | billing is not active | account is not active please check your billing |
            account is in arrears | account has an overdue balance |
            account * suspended due to insufficient balance |
            account * is suspended please check your plan and billing |
            access denied please make sure your account is in good standing |
            the request failed because your account has an overdue balance | user quota is not enough |
            token quota is not enough | 余额不足 | 余额已用完 | 余额已耗尽 | 余额为零 | 可用余额不足 |
            剩余额度不足 | 额度不足 | 额度已用尽 | 额度已用完 | 额度已耗尽 | 欠费 | 已欠费 | 处于欠费 |
            预扣费额度失败 | 无可用资源包 | 资源包已用完 | 资源包余额不足 | 请充值 | 請充值 | 餘額不足 |
            額度不足 | 余额为0 | 余额*不足 | 额度*不足 | 额度*用尽 | 额度*用完 | 套餐*用完 | 套餐*用尽 |
            免费额度 | 请先充值 | 请及时充值 | arrears$ | account in arrears | account is overdue |
            out of credit | no remaining credits | no credit | insufficient account | insufficient quota |
            quota is insufficient | free quota has been exhausted | free quota exhausted |
            please recharge | prepayment credits | exceeded your current balance | run out of funds |
            run out of credits | credit balance | credit has been used up | credits have been used up |
            credits are depleted | credits exhausted
            """
        ),
    },
    Meaning.DEAD_KEY: {
        "codes": _listed(
            """
            invalid_api_key | incorrect_api_key | InvalidApiKey | API_KEY_INVALID | api_key_expired |
            expired_api_key | authentication_error | AuthenticationError | invalid_authentication_error |
            incorrect_api_key_error | unauthenticated | invalid_token | token_expired |
            account_deactivated | access_terminated_error | CONSUMER_SUSPENDED | CONSUMER_INVALID |
            AuthFailure
            """
        ),
        "begins": _listed(
            """
            api key not valid | api key invalid | api key is not valid | api key is invalid |
            api key is incorrect | api key is disabled | api key is inactive | api key is expired |
            api key is revoked | api key expired | api key not found | api key does not exist |
            api key revoked | api key disabled | api key has expired | api key has been | api key was |
            api key * is invalid | api key you provided | api key provided is | invalid api key |
            invalid api token | invalid x api key | invalid subscription key | invalid access key |
            invalid secret key | invalid authentication | invalid authorization | invalid bearer token |
            invalid access token | invalid auth token | invalid credential | invalid token$ |
            incorrect api key | wrong api key | bad api key | unknown api key | expired api key |
            no api key provided | no auth credentials | missing api key | you didn't provide an api key |
            authentication fail | authentication error | authentication is invalid |
            authentication token is invalid | authentication token has expired | auth failed |
            access token expired | access token has expired | access token is invalid | token expired$ |
            token has expired$ | token is expired$ | token is invalid$ | could not validate credentials |
            unauthorized$ | unauthenticated$ | access was terminated | access has been terminated |
            access denied due to invalid subscription key |
            this key is associated with a deactivated account | account has been deactivated |
            account has been disabled | account is deactivated |
            permission denied consumer * has been suspended | consumer * has been suspended | 无效的令牌 |
            无效令牌 | 令牌无效 | 令牌已过期 | 令牌过期 | 令牌已失效 | 令牌状态不可用 | 令牌不存在 |
            令牌验证失败 | 未提供令牌 | 身份验证失败 | 身份认证失败 | 身份验证未通过 | 身份验证错误 |
            认证失败 | 验证失败$ | 鉴权失败 | 鉴权错误 | 无效的api key | 无效的api密钥 | 无效的密钥 |
            无效api key | api key无效 | api key错误 | api key不正确 | api key不存在 | api key已过期 |
            api key已失效 | api key过期 | api key失效 | api key已被 | api key已禁用 | api密钥无效 |
            api密钥错误 | api密钥已过期 | api密钥已失效 | 密钥无效 | 密钥错误 | 密钥不正确 | 密钥不存在 |
            密钥已过期 | 密钥已失效 | 密钥已被 | 不正确的api key | 错误的api key | 未授权$ | 未经授权$ |
            账号已被封禁 | 账户已被封禁 | 账号已被禁用 | 账户已被禁用 | 無效的令牌 | 身份驗證失敗 |
            密鑰無效 | 令牌失效 | 令牌错误 | invalid key$ | key expired$ | bad credentials |
            api key appears to be invalid | authentication parameter not received | api密钥不正确 |
            api密钥已被 | 登录失效$ | token无效$ | token无效请 | token已过期$ | token已过期请 |
            token已失效$ | token失效$ | 访问令牌无效 | 访问令牌已过期 | 鉴权不通过 | 鉴权未通过 |
            api token invalid | api token is invalid | api token expired | api key is missing |
            api key inv | api key doesn't exist | api key provided has | api key provided was |
            授权失败$ | access token invalid | authorization failed$ | user account is disabled |
            account is disabled | account is suspended | key无效$
            """
        ),
    },
    Meaning.CONTEXT_TOO_LONG: {
        "codes": _listed(
            """
            context_length_exceeded | context_window_exceeded | string_above_max_length |
            prompt_too_long
            """
        ),
        "says": _listed(
            """
            maximum context length | context length | context window | prompt is too long |
            input is too long | too many tokens | too many input tokens |
            exceeds the maximum number of tokens | range of input length | 上下文长度 | 上下文窗口 |
            超出最大长度 | 输入过长 | 输入长度超过 | 输入内容过长 | 提示词过长 | prompt过长 | prompt超长
            """
        ),
    },
    Meaning.CONTENT_REFUSED: {
        "codes": _listed(
            """
            content_filter | content_policy_violation | data_inspection_failed |
            sensitive_words_detected | ResponsibleAIPolicyViolation | moderation_blocked |
            InputTextSensitiveContentDetected | OutputTextSensitiveContentDetected
            """
        ),
        "says": _listed(
            """
            content exists risk | content policy | content management policy | inappropriate content |
            flagged as | 敏感内容 | 敏感词 | 敏感信息 | 违规内容 | 内容违规 | 内容审核 | 内容安全 |
            不安全内容
            """
        ),
    },
    Meaning.UNKNOWN_MODEL: {
        "codes": _listed(
            """
            model_not_found | model_not_exist | unknown_model | not_found_error | ModelNotFound
            """
        ),
        "begins": _listed(
            """
            model * not exist | model * not found | unknown model | no such model | 模型不存在 |
            模型*不存在
            """
        ),
    },
    Meaning.FORBIDDEN: {
        "codes": _listed("permission_error | permission_denied | unsupported_country_region_territory"),
        "begins": _listed("user location is not supported | country region or territory not supported"),
    },
    Meaning.BUSY: {
        "codes": _listed(
            """
            service_unavailable_error | service_unavailable | ServiceUnavailableError | server_busy |
            system_busy | model_busy | overloaded | overloaded_error | ServerOverloaded |
            engine_overloaded | engine_overloaded_error | model_overloaded | model_loading | no_capacity |
            unavailable | ModelNotReadyException
            """
        ),
        "begins": _listed(
            """
            服务器繁忙 | 服务繁忙 | 系统繁忙 | 系统正忙 | 系统忙 | 服务器忙 | 模型繁忙 | 网络繁忙 |
            业务繁忙 | 接口繁忙 | 繁忙 | 忙碌 | 分组*负载已饱和 | 分组*负载饱和 | 负载已饱和 | 负载过高 |
            负载过大 | 服务器负载 | 服务过载 | 服务器过载 | 系统过载 | 模型过载 | 模型正在加载 |
            模型加载中 | 正在加载模型 | 模型*正在加载 | 模型正在启动 | 访问量过大 | 请求量过大 |
            服务暂时不可用 | 服务暂不可用 | 服务不可用 | 算力不足 | 算力紧张 | 资源不足 | 资源紧张 |
            排队人数 | 伺服器繁忙 | 伺服器忙碌 | 系統繁忙 | 系統忙碌 | server is * busy |
            service is * busy | system is * busy | model is * busy | engine is * busy | server busy |
            service busy | system busy | model busy | overloaded$ | server * overloaded |
            service * overloaded | engine * overloaded | model * overloaded |
            model * is currently loading | model * is loading | model loading | loading model |
            server is loading | at capacity | model * at capacity | server * at capacity |
            service * at capacity | we are * at capacity | no capacity | no available capacity |
            there is no * capacity | insufficient capacity | service temporarily unavailable |
            service unavailable | service is * unavailable | server is * unavailable |
            model is * unavailable | model * experiencing high | high demand | high load | heavy load |
            too busy | 服务器*繁忙 | 系统*繁忙 | 服务器正忙 | 服务器太忙 | 服务器开小差 | 服务器压力过大 |
            系统负载 | 服务负载 | 模型负载 | 请求人数过多 | 使用人数 | 访问人数过多 | 人数过多 | gpu资源 |
            资源*不足 | 请求排队 | 排队中 | 模型启动中 | 正在启动 | engine is * warming up |
            model is * warming up | system is * under | server is * under heavy | were experiencing high |
            we are experiencing high | experiencing high | capacity exceeded | no available worker |
            no available instance | no instances available | cold start | busy$ | busy try
            """
        ),
        "says": _listed(
            """
            繁忙 | 忙碌 | 正忙 | 负载已饱和 | 负载饱和 | 负载过高 | 负载过大 | 负载较高 | 高负载 | 过载 |
            超负荷 | 资源不足 | 资源紧张 | 算力不足 | 算力紧张 | 容量不足 | 正在加载 | 加载中 | 正在启动 |
            排队 | 拥挤 | 访问量过大 | 请求量过大 | 流量过大 | 人数过多 | 服务不可用 | 暂时不可用 |
            暂不可用 | 負載 | no capacity | no available capacity | at capacity | at full capacity |
            at max capacity | at maximum capacity | over capacity | out of capacity |
            insufficient capacity | overloaded | overloading | server is busy | server is currently busy |
            server is too busy | server busy | servers are busy | servers are currently busy |
            service is busy | service is too busy | service busy | system is busy |
            system is currently busy | system busy | model is busy | model is currently busy |
            model busy | engine is busy | currently busy | too busy | high load | heavy load |
            high demand | high traffic | heavy traffic | is loading | is currently loading |
            is still loading | is being loaded | model loading | loading model | warming up |
            temporarily unavailable | currently unavailable | service unavailable | not enough resources |
            insufficient system resource | queue is full | queue full | 资源*不足 | 太忙 | 启动中 |
            压力过大 | 人数较多 | capacity exceeded | no available worker | no available instance |
            no instances available | cold start | busy$
            """
        ),
    },
    Meaning.LATER: {
        "begins": _listed(
            """
            please try again later | try again later | please try later | please retry later |
            please retry after | please wait | 请稍后 | 请稍候 | 请您稍后 | 稍后再试 | 稍后重试 | 請稍後
            """
        ),
        "says": _listed(
            """
            try again later | try again shortly | try again soon | try again in a | try later |
            retry later | retry again later | 稍后再试 | 稍后重试 | 稍后再次尝试 | 稍后尝试 | 稍后再来 |
            稍后访问 | 稍候再试 | 稍候重试 | 请稍后 | 请稍候 | 請稍後 | 稍後再試
            """
        ),
    },
    Meaning.RATE_LIMITED: {
        "codes": _listed(
            """
            rate_limit_exceeded | rate_limit_error | rate_limit_reached_error | rate_limited |
            rate_limit | RateLimitExceeded | RateLimitError | RequestLimitExceeded | too_many_requests |
            Throttling | ThrottlingException | Throttling.RateQuota | Throttling.BurstRate |
            Throttling.AllocationQuota | limit_requests | limit_burst_rate | resource_exhausted
            """
        ),
        "begins": _listed(
            """
            rate limit | ratelimit | rate exceeded | requests rate limit | request rate |
            too many requests | too many concurrent | throttl | request was throttled |
            requests are throttled | slow down | quota exceeded | concurrency limit |
            you have exceeded your rate limit | you are being rate limited | 限流 | 触发限流 | 被限流 |
            已被限流 | 流量限制 | 请求过于频繁 | 操作过于频繁 | 访问过于频繁 | 调用过于频繁 | 过于频繁 |
            请求太频繁 | 请求频繁 | 请求频率 | 访问频率 | 调用频率 | 频率过高 | 频率过快 | 频率限制 |
            请求过快 | 请求过多 | 请求次数过多 | 请求数过多 | 请求数限制 | 速率限制 | 触发速率限制 |
            达到速率限制 | 并发数过高 | 并发数超 | 并发超限 | 并发请求数 | 請求過於頻繁 | 请求太多 |
            访问太频繁 | 操作太频繁 | 触发频率 | 请求速率 | 达到*速率 | 达到*请求*上限 | 达到*并发 |
            超过*请求次数 | 超过*请求限制 | 超过*并发 | 超出并发 | 超出*频率 | 调用次数超 | qps超 |
            qps limit | rpm limit | tpm limit | youve hit the rate limit | you have hit the rate limit |
            hit the rate limit | are sending requests too | sending requests too quickly |
            request was rate limited | requests are being rate limited | concurrency exceeded |
            concurrent requests exceeded
            """
        ),
        "says": _listed(
            """
            rate limit | ratelimit | rate limiting | too many requests | throttled | 限流 | 过于频繁 |
            太频繁 | 频率过高 | 频率过快 | 频率限制 | 请求过快 | 请求过多 | 速率限制 | 并发数过高 |
            并发超限 | 過於頻繁 | 请求太多 | 速率上限 | 并发限制 | 并发上限 | 请求上限 | 次数限制 |
            too quickly | qps超
            """
        ),
    },
    Meaning.INVALID: {
        "codes": _listed("invalid_request_error | invalid_request | invalid_parameter | bad_request"),
    },
    Meaning.BROKEN: {
        "says": _listed(
            """
            internal | unexpected | unknown error | bad gateway | gateway timeout | gateway time out |
            内部错误 | 内部异常 | 未知错误 | 系统异常 | 系统错误 | 服务异常 | 服务器错误
            """
        ),
    },
}

# Words that may precede the first meaningful one; they cannot be an echo of what a client wrote.
FILLERS = _listed(
    """
    a | an | the | this | that | your | our | you | we | it | is | current | currently | provided |
    error | errors | err | exception | code | status | statuscode | http | message | msg | detail |
    reason | response | returned | api | upstream | provider | channel | request | failed | failure |
    call | calling | from | with | at | by | sorry | oops | bad | unauthorized | forbidden | account |
    bad request | no | has | have | billing | service | litellm | openai | anthropic | deepseek | gemini |
    google | 您的 | 你的 | 您 | 你 | 该 | 此 | 本 | 的 | 当前 | 目前 | 现在 | 很 | 非常 | 抱歉 | 对不起 |
    您好 | 你好 | 尊敬的用户 | 提示 | 错误 | 错误信息 | 错误码 | 报错 | 异常 | 请求 | 调用 | 接口 | 失败 |
    返回 | 上游 | 渠道 | 服务 | 模型 | 账户 | 账号 | 帐户 | 帐号 | 用户 | 令牌 | 已 | 因 | 因为 | 由于 |
    提供的 | 使用的 | 可用 | 总 | 已经 | 目前的 | 由 | 於 | 處理 | 处理 | api密钥 | 密钥 | 系统 | 检测到 |
    帳戶 | 您的帳戶 | 抱歉的 | 地 | 遗憾 | 出错 | 出错了 | 发生 | 内部 | 发生了
    """
)


_GAP = ".{0,250}?"
_CJK = "\u3400-\u4dbf\u4e00-\u9fff"
_PUNCTUATION = re.compile(r"[\W_]+")
_SPACE_AT_CJK = re.compile(rf"(?<=[{_CJK}]) | (?=[{_CJK}])")
_NUMBER_OR_ERROR = re.compile(r"(?:\d+|\w*(?:error|exception))(?![^\W_])", re.ASCII)


def folded(text: str) -> str:
    """A message for comparison: lower case, one space between words, none next to a Chinese character."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace("\u2019", "")
    words = _PUNCTUATION.sub(" ", plain).strip().replace("apikey", "api key")
    return _SPACE_AT_CJK.sub("", words)


def folded_code(code: str) -> str:
    """A code for comparison: `RateLimitExceeded` equals `rate_limit_exceeded`."""
    return _PUNCTUATION.sub("", code.casefold())


class Phrases:
    """Matches the phrases of one meaning, whatever the case, spaces and punctuation."""

    def __init__(self, phrases: Iterable[str]) -> None:
        patterns = [_pattern(phrase) for phrase in phrases]
        western = "|".join(pattern for pattern in patterns if pattern.isascii())
        others = "|".join(pattern for pattern in patterns if not pattern.isascii())
        self._western = re.compile(rf"(?<![a-z0-9])(?:{western})" if western else r"(?!)")
        self._others = re.compile(others or r"(?!)")

    def begin(self, message: str, starts: Sequence[int]) -> bool:
        """Whether a folded message contains one of them at one of these positions."""
        looked = [self._western] if message.isascii() else [self._western, self._others]
        return any(phrases.match(message, start) for phrases in looked for start in starts)

    def stand_in(self, message: str) -> bool:
        """Whether a folded message contains one of them anywhere."""
        if self._western.search(message):
            return True
        return not message.isascii() and self._others.search(message) is not None


def _pattern(phrase: str) -> str:
    end = "$" if phrase.endswith("$") else ""
    parts = [re.escape(folded(part)) for part in phrase.removesuffix("$").split("*")]
    return _GAP.join(parts) + end


class Fillers:
    """Words at the start of a message that carry no meaning."""

    def __init__(self, words: Iterable[str]) -> None:
        longest_first = sorted({folded(word) for word in words}, key=len, reverse=True)
        patterns = (re.escape(word) + (r"(?![a-z0-9])" if word.isascii() else "") for word in longest_first)
        self._word = re.compile("|".join(patterns))

    def starts(self, message: str) -> Iterator[int]:
        """Where the meaning of a folded message may start: at its beginning, and after each filler there."""
        at = 0
        while True:
            yield at
            found = self._word.match(message, at) or _NUMBER_OR_ERROR.match(message, at)
            if found is None or found.end() == at:
                return
            at = found.end() + message.startswith(" ", found.end())

    def fill(self, message: str) -> bool:
        """Whether a folded message consists of fillers only."""
        return max(self.starts(message)) == len(message)
