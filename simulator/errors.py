"""Error responses in DeepSeek's wording.

    ApiError               an error answer instead of a result
      BadRequestError      400 or 422
      TooLargeError        413
      UnauthorizedError    401
      NoBalanceError       402
      UnknownModelError    400 as DeepSeek, or 404 as others
      OverLimitError       429

Texts and codes are as users of DeepSeek quote them (2024-05 to 2026-04).
"""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """An answer with an error body. `reason` is the word the ledger counts it under."""

    status = 500
    type = "server_error"
    code: str | None = "invalid_request_error"
    reason = "server_error"

    def __init__(self, message: str, headers: bytes = b"") -> None:
        """`headers` are whole header lines to send with it."""
        super().__init__(message)
        self.message = message
        self.headers = headers


class BadRequestError(ApiError):
    """A body that cannot be read (400) or has wrong parameters (422)."""

    type = "invalid_request_error"
    reason = "bad_request"

    def __init__(self, message: str, status: int = 400) -> None:
        """`status` is 400 or 422."""
        super().__init__(message)
        self.status = status


class TooLargeError(ApiError):
    """A request body above the configured size (413)."""

    status = 413
    type = "invalid_request_error"
    reason = "too_large"


class UnauthorizedError(ApiError):
    """An unknown key (401)."""

    status = 401
    type = "authentication_error"
    reason = "unauthorized"

    def __init__(self, secret: str) -> None:
        """Names the key by its last four characters only."""
        super().__init__(f"Authentication Fails, Your api key: ****{secret[-4:]} is invalid")


class NoBalanceError(ApiError):
    """An account without balance (402)."""

    status = 402
    type = "unknown_error"
    reason = "balance"

    def __init__(self) -> None:
        """The standard message."""
        super().__init__("Insufficient Balance")


class UnknownModelError(ApiError):
    """A model that is not served: DeepSeek's 400, or the 404 of most others."""

    type = "invalid_request_error"
    reason = "unknown_model"

    def __init__(self, model: str, status: int) -> None:
        """`status` is 400 or 404."""
        if status == 404:
            super().__init__(f"The model `{model[:100]}` does not exist or you do not have access to it.")
            self.code = "model_not_found"
        else:
            super().__init__("Model Not Exist")
        self.status = status


class OverLimitError(ApiError):
    """A call above a limit (429)."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    reason = "limit"


def error_body(message: str, type_: str, code: str | None) -> dict[str, Any]:
    """The JSON body of an error, marked as simulated like every answer."""
    return {
        "error": {"message": message, "type": type_, "param": None, "code": code},
        "simulated": True,
    }


# Faults by status: (message, type, code).
FAULT_TEXTS: dict[str, tuple[str, str, str | None]] = {
    "400": ("Invalid request format", "invalid_request_error", "invalid_request_error"),
    "401": (
        "Authentication Fails, Your api key: ****ated is invalid",
        "authentication_error",
        "invalid_request_error",
    ),
    "402": ("Insufficient Balance", "unknown_error", "invalid_request_error"),
    "403": ("You are not allowed to use this model", "permission_error", "permission_denied"),
    "404": ("The model does not exist", "invalid_request_error", "model_not_found"),
    "408": ("Request timed out", "timeout_error", "request_timeout"),
    "422": ("Invalid parameters", "invalid_request_error", "invalid_request_error"),
    "429": ("Rate limit reached", "rate_limit_error", "rate_limit_exceeded"),
    "429-retry-after": ("Rate limit reached", "rate_limit_error", "rate_limit_exceeded"),
    "429-insufficient-quota": (
        "You exceeded your current quota, please check your plan and billing details.",
        "insufficient_quota",
        "insufficient_quota",
    ),
    "500": ("Internal server error", "server_error", "internal_error"),
    "503": ("Service is too busy. Please try again later.", "service_unavailable_error", "server_busy"),
    "error-200": (
        "Service is too busy. Please try again later.",
        "service_unavailable_error",
        "server_busy",
    ),
    "stream-error": ("Internal server error", "server_error", "internal_error"),
}
