"""An upstream's error, read: its words, the outcome they mean, and whose limit they name.

Providers agree on little. The status decides where it says enough; else the `code`, the `type` and, last, the
beginning of the message. A message may echo what the client wrote, so what would close an account or a key is
never looked for in the middle of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from app.domain.outcome import Outcome

_LONGEST_MESSAGE = 1000  # characters kept of an upstream's message


class Scope(StrEnum):
    """What a refusal names: whose limit was met."""

    MODEL = "model"  # the account for this model: what is meant when nothing is named
    KEY_MODEL = "key_model"
    KEY = "key"
    ACCOUNT = "account"
    PROVIDER = "provider"


@dataclass(frozen=True, slots=True)
class UpstreamError:
    """An `error` object, whatever shape it came in. Absent parts are empty."""

    message: str = ""
    code: str = ""
    type: str = ""

    @property
    def words(self) -> frozenset[str]:
        """Code and type in lower case."""
        return frozenset({self.code.lower(), self.type.lower()} - {""})


def read_error(document: Any) -> UpstreamError:
    """Find the error in an answer: `{"error": {...}}`, `{"error": "..."}`, `{"code", "message"}`, `{"detail"}`."""
    if not isinstance(document, Mapping):
        return UpstreamError()
    inner = document.get("error") or document
    if not isinstance(inner, Mapping):
        return UpstreamError(_text(inner))
    message = inner.get("message") or inner.get("detail") or inner.get("msg")
    return UpstreamError(_text(message), _text(inner.get("code")), _text(inner.get("type")))


def _text(value: Any) -> str:
    """A value in words, on one line, cut; nested values are left out as they may hold anything."""
    if value is None or isinstance(value, bool | Mapping | list):
        return ""
    return " ".join(str(value)[:_LONGEST_MESSAGE].split())


_STATUS_OF = {
    **dict.fromkeys(("invalid_api_key", "authentication_error", "incorrect_api_key"), 401),
    **dict.fromkeys(("insufficient_quota", "insufficient_balance", "payment_required"), 402),
    **dict.fromkeys(("permission_error", "permission_denied"), 403),
    **dict.fromkeys(("model_not_found", "not_found_error"), 404),
    **dict.fromkeys(("rate_limit_exceeded", "rate_limit_error", "too_many_requests", "rate_limited"), 429),
    **dict.fromkeys(
        (
            "service_unavailable_error",
            "service_unavailable",
            "server_busy",
            "overloaded_error",
            "no_capacity",
            "engine_overloaded",
        ),
        503,
    ),
    **dict.fromkeys(("server_error", "internal_error", "api_error", "internal_server_error"), 500),
}
_INVALID = frozenset({"invalid_request_error", "invalid_request", "invalid_parameter", "bad_request"})
_BALANCE = frozenset(
    {
        "insufficient_quota",
        "insufficient_balance",
        "insufficient_user_quota",
        "billing_hard_limit_reached",
        "arrearage",
    }
)
_BALANCE_BEGINS = ("insufficient balance", "insufficient account balance", "your account balance")
_KEY_BEGINS = ("api key not valid", "invalid api key", "incorrect api key", "authentication fails")
_CONTENT = frozenset(
    {"content_filter", "content_policy_violation", "data_inspection_failed", "sensitive_words_detected"}
)
_CONTENT_SAYS = re.compile(
    r"content exists risk|content policy|content management policy|inappropriate content|flagged as",
    re.IGNORECASE,
)
_CONTEXT = frozenset({"context_length_exceeded", "context_window_exceeded", "string_above_max_length"})
_CONTEXT_SAYS = re.compile(
    r"maximum context length|context (length|window)|(prompt|input) is too long|too many (input )?tokens",
    re.IGNORECASE,
)
_MODEL = frozenset({"model_not_found", "model_not_exist", "unknown_model"})
_MODEL_SAYS = re.compile(
    r"^(the )?model\b.{0,250}?\b(not exist|does not exist|not found)|^(unknown|no such) model", re.IGNORECASE
)
_BUSY_SAYS = re.compile(
    r"\bno (available )?capacity\b|\boverloaded\b|\b(server|service) is (too )?busy\b", re.IGNORECASE
)


def outcome_of(status: int, error: UpstreamError) -> Outcome:
    """What an error with this HTTP status means."""
    if status in _FIXED:
        return _FIXED[status]
    if status == 429:
        return _of_429(error)
    if status == 403:
        return _of_403(error)
    if 400 <= status < 500:
        return _of_4xx(error)
    return Outcome.OVERLOADED if _is_busy(error) else Outcome.UNAVAILABLE


_FIXED = {
    401: Outcome.UNAUTHORIZED,
    402: Outcome.NO_BALANCE,
    404: Outcome.UNKNOWN_MODEL,
    408: Outcome.UNAVAILABLE,
    409: Outcome.UNAVAILABLE,  # two calls met on a lock of the upstream's own
    425: Outcome.UNAVAILABLE,
    503: Outcome.OVERLOADED,
    529: Outcome.OVERLOADED,
}


def embedded_status(error: UpstreamError) -> int:
    """The status that an error inside a 200 would have had; 500 when it says nothing known."""
    if error.code.isdecimal() and 400 <= int(error.code) <= 599:
        return int(error.code)
    for word in (error.code.lower(), error.type.lower()):
        if word in _STATUS_OF:
            return _STATUS_OF[word]
    if _is_balance(error) or _is_client_error(error):
        return 400
    return 503 if _is_busy(error) else 500


def scope_of(error: UpstreamError, model: str) -> Scope:
    """Whose limit a 429 names; `model` is the upstream's name of the model that was called."""
    text = error.message.lower()
    names_model = "model" in text or (bool(model) and model.lower() in text)
    if re.search(r"\bfrom this ip\b|\byour ip\b|\b(all|this|our) (provider|platform)\b|\bglobal\b", text):
        return Scope.PROVIDER
    if re.search(r"\b(api[ _-]?key|this key|per[ -]key|your key)\b", text):
        return Scope.KEY_MODEL if names_model else Scope.KEY
    if re.search(r"\b(organi[sz]ation|account|workspace|user|project|team)\b", text) and not names_model:
        return Scope.ACCOUNT
    return Scope.MODEL


def _of_429(error: UpstreamError) -> Outcome:
    if _is_balance(error):
        return Outcome.NO_BALANCE
    return Outcome.OVERLOADED if _is_busy(error) else Outcome.RATE_LIMITED


def _of_403(error: UpstreamError) -> Outcome:
    if _is_balance(error):
        return Outcome.NO_BALANCE
    return Outcome.CONTENT_REFUSED if _is_refusal(error) else Outcome.FORBIDDEN


def _of_4xx(error: UpstreamError) -> Outcome:
    if _is_balance(error):
        return Outcome.NO_BALANCE
    if "invalid_api_key" in error.words or _begins(error, _KEY_BEGINS):
        return Outcome.UNAUTHORIZED
    if error.words & _CONTEXT or _CONTEXT_SAYS.search(error.message):
        return Outcome.CONTEXT_TOO_LONG
    if _is_refusal(error):
        return Outcome.CONTENT_REFUSED
    if error.words & _MODEL or _MODEL_SAYS.search(error.message):
        return Outcome.UNKNOWN_MODEL
    return Outcome.INVALID_REQUEST


def _is_client_error(error: UpstreamError) -> bool:
    return bool(error.words & (_INVALID | _CONTENT | _CONTEXT | _MODEL)) and not _is_busy(error)


def _is_balance(error: UpstreamError) -> bool:
    return bool(error.words & _BALANCE) or _begins(error, _BALANCE_BEGINS)


def _is_refusal(error: UpstreamError) -> bool:
    return bool(error.words & _CONTENT or _CONTENT_SAYS.search(error.message))


def _is_busy(error: UpstreamError) -> bool:
    return bool(_BUSY_SAYS.search(error.message)) or any(_STATUS_OF.get(word) == 503 for word in error.words)


def _begins(error: UpstreamError, phrases: tuple[str, ...]) -> bool:
    return error.message.lower().startswith(phrases)
