"""Everything that can go wrong, in one tree.

PenstockError
+-- Unreachable             an outside thing does not answer; `retry_after` seconds
|   +-- DatabaseUnreachable
|   +-- RedisUnreachable
+-- Rejected                the caller must change something; carries the envelope's fields
    +-- Invalid             400, 413, 422
    +-- Unauthenticated     401
    +-- Forbidden           403
    +-- NotFound            404
    +-- Conflict            409
    +-- OverBudget          402
    +-- OverLimit           429; `retry_after` seconds
"""

from __future__ import annotations


class PenstockError(Exception):
    """The root."""


class Unreachable(PenstockError):
    """An outside thing does not answer."""

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DatabaseUnreachable(Unreachable):
    """The database does not answer; nothing was changed, or it is not known whether it was."""


class RedisUnreachable(Unreachable):
    """Redis does not answer within its time limit, or refuses."""


class Rejected(PenstockError):
    """A request that cannot be served as it stands.

    `param` names the field, `code` is machine-readable, `status` the HTTP status it is rendered with.
    """

    status = 400
    type = "invalid_request_error"

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        if status is not None:
            self.status = status


class Invalid(Rejected):
    """A malformed or impossible request."""


class Unauthenticated(Rejected):
    """No valid API key."""

    status = 401
    type = "authentication_error"


class Forbidden(Rejected):
    """The key may not do this."""

    status = 403
    type = "permission_error"


class NotFound(Rejected):
    """No such thing, or not this client's."""

    status = 404
    type = "not_found_error"


class Conflict(Rejected):
    """The thing is not in a state for this."""

    status = 409
    type = "conflict_error"


class OverBudget(Rejected):
    """The client has spent, or reserved, what it may."""

    status = 402
    type = "insufficient_quota"


class OverLimit(Rejected):
    """Too much at once, for this client."""

    status = 429
    type = "rate_limit_error"

    def __init__(self, message: str, *, code: str, retry_after: float = 5.0) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after
