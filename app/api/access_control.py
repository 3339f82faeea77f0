"""Who is calling, and what every call with a key must pass: scope, requests per minute, policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import structlog
from flask import Flask, Request, Response
from flask.globals import app_ctx, request_ctx
from structlog.contextvars import bind_contextvars

from app.access.authenticate import Authenticate, CallerContext, client_address, current, zones_of
from app.access.domain.caller import Caller, scope_of
from app.access.domain.policy import CallFacts, Decision
from app.access.manage_policies import PolicyBook
from app.access.request_rates import Rate, RequestRates
from app.platform.domain.errors import Forbidden, OverLimit
from app.platform.domain.url_rules import parse_networks
from app.platform.ports import Clock
from app.settings.models import AccessSettings
from app.submission.domain.request import IDEMPOTENCY_KEY, Fingerprint, IdempotencyKey, parse_key

log = structlog.get_logger("penstock.access")

_TEAMS = "/v1/admin/clients"  # the only admin endpoints open to team administrators


class CallerAddresses:
    """Client addresses, and the network zones they are in."""

    def __init__(self, settings: AccessSettings) -> None:
        self._trusted = parse_networks(settings.trusted_proxies)
        self.named = {name: parse_networks(networks) for name, networks in settings.zones.items()}

    def of(self, asked: Request) -> str:
        """Return the client's address; X-Forwarded-For counts only from trusted proxies."""
        forwarded = asked.headers.get("X-Forwarded-For") if self._trusted else None
        return client_address(asked.remote_addr or "", forwarded, self._trusted)

    def zones(self, address: str) -> frozenset[str]:
        """Return the names of the configured zones that contain the address."""
        return zones_of(address, self.named)


class AccessControl:
    """Admits each request once: scope, requests per minute, policies."""

    def __init__(
        self, policies: PolicyBook, rates: RequestRates, clock: Clock, settings: AccessSettings
    ) -> None:
        self._policies = policies
        self._rates = rates
        self._clock = clock
        self._addresses = CallerAddresses(settings)

    @property
    def zones(self) -> Collection[str]:
        """The zone names that policies may use."""
        return self._addresses.named.keys()

    def admit(self, caller: Caller) -> Caller:
        """Admit the caller. Raises Forbidden, OverLimit, DatabaseUnreachable.

        In order: record the caller for the audit log; count the request against the limit per minute; check the key's
        scopes and administration rights; check policies on the action. Policies on models are checked with the model.
        """
        if app_ctx.g.get("caller") == caller:
            return caller
        asked = request_ctx.request
        calling = self._begin(caller)
        scope = scope_of(asked.method, asked.path)
        self._count(caller)
        if not caller.may(scope):
            raise Forbidden(f"this key lacks the scope {scope}", code="insufficient_scope")
        _check_administration(caller, asked.path)
        if self._policies.decisive:
            self._check_policies(calling, scope, self._policies.decide)
        current.set(calling)
        return caller

    def admit_page(self, caller: Caller, scope: str) -> None:
        """Admit a dashboard session: the same policies and audit log, but no request limit.

        Without the database, the last known policies apply, so that the page can still report the outage.

        Raises Forbidden, DatabaseUnreachable.
        """
        calling = self._begin(caller)
        self._check_policies(calling, scope, self._policies.decide_as_last_known)
        current.set(calling)

    def install(self, app: Flask) -> None:
        """Reset the caller before each request, and add RateLimit headers to each response."""

        @app.before_request
        def begin() -> None:
            current.set(None)

        @app.after_request
        def add_headers(response: Response) -> Response:
            rate: Rate | None = app_ctx.g.get("rate")
            if rate is not None:
                response.headers["RateLimit-Policy"] = f'"requests";q={rate.rpm};w=60'
                response.headers["RateLimit"] = f'"requests";r={rate.left};t={math.ceil(rate.full_in)}'
            return response

    def _begin(self, caller: Caller) -> CallerContext:
        """Record the caller for the audit log."""
        address = self._addresses.of(request_ctx.request)
        kept = app_ctx.g
        kept.caller, kept.address = caller, address
        return CallerContext(caller, address, self._addresses.zones(address))

    def _count(self, caller: Caller) -> None:
        rpm = caller.limits.rpm
        rate = None if rpm is None else self._rates.take(caller.client_id, rpm)
        app_ctx.g.rate = rate
        if rate is not None and not rate.allowed:
            raise OverLimit(
                f"more than {rate.rpm} requests a minute", code="rate_limited", retry_after=rate.retry_after
            )

    def _check_policies(
        self, calling: CallerContext, scope: str, decide: Callable[[CallFacts], Decision]
    ) -> None:
        caller = calling.caller
        facts = CallFacts(
            at=self._clock.now(),
            action=scope,
            client=caller.client_id,
            team=caller.team,
            user=caller.user,
            key=caller.key_id,
            address=calling.address,
            zones=calling.zones,
        )
        decision = decide(facts)
        if not decision.allowed:
            log.warning("refused by policy", rule=decision.rule, client=caller.client_id, action=scope)
            raise Forbidden(
                "this key may not do this (denied by a policy for this client, time or address)",
                code="denied_by_policy",
            )


def _check_administration(caller: Caller, path: str) -> None:
    if not path.startswith("/v1/admin") or caller.is_admin:
        return
    if not (caller.administers and path.startswith(_TEAMS)):
        raise Forbidden("only administrators may do this", code="not_an_administrator")


def credentials(environ: Mapping[str, Any]) -> str | None:
    """The Authorization header; where it shows no bearer, the key in the header that Azure and others use."""
    given: str | None = environ.get("HTTP_AUTHORIZATION")
    if (given or "").lstrip()[:7].lower() == "bearer ":
        return given
    key = environ.get("HTTP_API_KEY") or environ.get("HTTP_X_API_KEY")
    return f"Bearer {key}" if key else given


class Callers:
    """Authenticates and admits the caller of the current request."""

    def __init__(self, authenticate: Authenticate, auth: AccessControl) -> None:
        self._authenticate = authenticate
        self._auth = auth

    def current(self) -> Caller:
        """Return the admitted caller. Raises Unauthenticated, Forbidden, OverLimit, DatabaseUnreachable."""
        caller = self._authenticate.caller(credentials(request_ctx.request.environ))
        bind_contextvars(client_id=caller.client_id)
        return self._auth.admit(caller)


class Repeats:
    """The Idempotency-Key of the current request, and the fingerprint of its payload as it is read."""

    def __init__(self, operation: str) -> None:
        """Raises Invalid for a malformed key."""
        self._key = parse_key(request_ctx.request.headers.get(IDEMPOTENCY_KEY))
        self._fingerprint = None if self._key is None else Fingerprint(operation)

    def add(self, piece: bytes) -> bytes:
        """Add a piece to the fingerprint and return it."""
        if self._fingerprint is not None:
            self._fingerprint.add(piece)
        return piece

    def repeat(self) -> IdempotencyKey | None:
        """Return the key with the fingerprint of what was read so far; None without a key."""
        if self._key is None or self._fingerprint is None:
            return None
        return IdempotencyKey(self._key, self._fingerprint.text())
