"""Who is calling, and under which Idempotency-Key."""

from __future__ import annotations

from flask.globals import request_ctx
from structlog.contextvars import bind_contextvars

from app.access.authenticate import Authenticate
from app.access.domain.caller import Caller
from app.api.access_control import AccessControl
from app.submission.domain.request_headers import IDEMPOTENCY_KEY, Fingerprint, IdempotencyKey, parse_key


class Callers:
    """Reads the caller out of the request that is being served."""

    def __init__(self, authenticate: Authenticate, gatekeeper: AccessControl) -> None:
        self._authenticate = authenticate
        self._gatekeeper = gatekeeper

    def current(self) -> Caller:
        """The caller, once let in. Raises Unauthenticated, Forbidden, OverLimit, DatabaseUnreachable."""
        caller = self._authenticate.caller(request_ctx.request.environ.get("HTTP_AUTHORIZATION"))
        bind_contextvars(client_id=caller.client_id)
        return self._gatekeeper.admit(caller)


class Repeats:
    """The Idempotency-Key of the request that is being served, and its payload as that is read."""

    def __init__(self, operation: str) -> None:
        """Raises Invalid for a malformed key."""
        self._key = parse_key(request_ctx.request.headers.get(IDEMPOTENCY_KEY))
        self._fingerprint = None if self._key is None else Fingerprint(operation)

    def add(self, piece: bytes) -> bytes:
        """Go on with the next piece; gives it back."""
        if self._fingerprint is not None:
            self._fingerprint.add(piece)
        return piece

    def repeat(self) -> IdempotencyKey | None:
        """What was read so far, as a repeat; None without a key."""
        if self._key is None or self._fingerprint is None:
            return None
        return IdempotencyKey(self._key, self._fingerprint.text())
