"""Calls upstreams: one POST each, with one time limit for everything up to the answer's last byte.

`Upstreams.call` reads the answer and passes the chunks of a streamed one on; `Upstreams.open` is the call itself.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson
from pydantic import SecretStr
from urllib3.connection import HTTPConnection
from urllib3.response import BaseHTTPResponse

from app.platform.ports import Clock
from app.settings import Settings, UpstreamHeaders, UpstreamSettings
from app.settings.provider_profiles import effective_profile, profile_name
from app.tasks.domain.attempt import Claimed
from app.upstreams.domain.classify import UpstreamProfile
from app.upstreams.domain.reply import Reply, TransportError
from app.upstreams.domain.request_parameters import (
    SHARED,
    STREAM_OPTIONS,
    pass_shared,
    remembered_fixes,
    strip_default_parameters,
)
from app.upstreams.held_secrets import HeldSecrets
from app.upstreams.read_answer import AnswerReading, PassOn
from app.upstreams.upstream_call import (
    TRANSPORT_EXCEPTIONS,
    HttpResponse,
    IncompleteCall,
    Pooled,
    UpstreamCall,
    UpstreamConnections,
    not_sent,
    open_socket_of,
)

MaySend = Callable[[], bool]
USER_AGENT = "Penstock/1"
_STREAMED, _WITH_USAGE = b',"stream":true', b',"stream_options":{"include_usage":true}'
_GZIP_LEVEL = 5  # nearly as small as 9, in a third of the time
_GZIP_FROM = 1400  # bytes: less fits into one packet anyway
_MAX_PAST = 64  # replaced secrets that are still redacted
_REDACTED_FROM = 8  # characters: a shorter secret would match ordinary words


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an upstream accepts chat completions, and the limits of a call."""

    path: str
    timeout_seconds: float
    first_byte_seconds: float | None
    idle_seconds: float
    max_body: int
    connections: UpstreamConnections = field(repr=False)
    gzip: bool = False  # whether it accepts compressed requests
    defaults: Mapping[str, Any] = field(default_factory=dict)  # parameters that it would assume anyway
    hidden: tuple[str, ...] = field(default=(), repr=False)  # secrets in headers, which its answers may echo
    profile: UpstreamProfile = field(default_factory=UpstreamProfile)

    def new_call(self, timeout: float | None = None) -> UpstreamCall:
        """A call within these limits; `timeout`: another total, in seconds."""
        total = self.timeout_seconds if timeout is None else timeout
        return UpstreamCall(total, self.first_byte_seconds, self.idle_seconds)


class Upstreams:
    """All upstreams of a configuration, with their secrets, which never leave it.

    The threads of a worker process share it. `_lock` guards the calls in flight and the replacement of secrets; a call
    reads `_secrets` and `_endpoints`, which are replaced as a whole, without it.
    """

    def __init__(
        self,
        settings: Settings,
        secrets: Mapping[str, SecretStr],
        *,
        concurrency: int,
        clock: Clock,
        headers: Mapping[str, UpstreamHeaders] | None = None,
    ) -> None:
        """`secrets` by key name, `headers` by upstream; `concurrency`: simultaneous calls in this process.

        If `headers` is given, only its upstreams can be called. Raises ConfigError for an unusable upstream.
        """
        self._clock = clock
        self._secrets = secrets
        if headers is None:
            headers = {upstream.name: UpstreamHeaders(upstream.headers) for upstream in settings.upstreams}
        self._endpoints = {
            upstream.name: _endpoint(upstream, headers[upstream.name], concurrency, clock)
            for upstream in settings.upstreams
            if upstream.name in headers
        }
        self._concurrency = concurrency
        self._upstreams = {upstream.name: upstream for upstream in settings.upstreams}
        self._past: tuple[str, ...] = ()  # replaced secrets: answers to older calls may echo them
        self._opened_before = 0  # connections of replaced endpoints
        self._lock = threading.Lock()
        self._calls: set[UpstreamCall] = set()
        self._begun = 0
        self._aborted = False

    def take_secrets(self, secrets: Mapping[str, SecretStr], headers: Mapping[str, UpstreamHeaders]) -> None:
        """Use these for new calls; calls in flight finish with the old ones.

        Raises ConfigError for an unusable upstream, and changes nothing then.
        """
        changed = {
            name: _endpoint(self._upstreams[name], one, self._concurrency, self._clock)
            for name, one in headers.items()
        }
        with self._lock:
            replaced = [self._endpoints[name] for name in changed]
            old = [self._secrets[key].get_secret_value() for key in secrets if key in self._secrets]
            hidden = [value for endpoint in replaced for value in endpoint.hidden]
            self._past = tuple(dict.fromkeys([*old, *hidden, *self._past]))[:_MAX_PAST]
            self._opened_before += sum(endpoint.connections.opened for endpoint in replaced)
            self._secrets = {**self._secrets, **secrets}
            self._endpoints = {**self._endpoints, **changed}
        for endpoint in replaced:
            endpoint.connections.close()

    def knows(self, key: str, upstream: str) -> bool:
        """Whether calls by this key can be made."""
        return key in self._secrets and upstream in self._endpoints

    def call(
        self, claimed: Claimed, may_send: MaySend, pass_on: PassOn | None = None
    ) -> Reply | TransportError:
        """Make the call and return its reply or error. Nothing that an upstream does raises.

        `may_send` is asked once the connection stands; if it says no, nothing is sent. The chunks of an answer that
        is streamed are handed to `pass_on` as they arrive, in this thread. The reply's body is the whole answer, as if
        it had not been streamed; its `shown` says whether anything was passed on.
        """
        show = None if pass_on is None else lambda data: pass_on(self._redacted(claimed, data))
        endpoint = self._endpoints[claimed.permit.upstream]
        reading = AnswerReading(endpoint.max_body, endpoint.profile.shape, show)
        try:
            with self.open(claimed, may_send) as answer:
                body = reading.read(answer)
        except IncompleteCall as failed:
            return replace(failed.fault, shown=reading.shown)
        body = self._redacted(claimed, body)
        shown, sent_at = reading.shown, answer.sent_at
        return Reply(answer.status, answer.headers, body, answer.first_byte_at, shown, sent_at)

    def _redacted(self, claimed: Claimed, body: bytes) -> bytes:
        hidden = self._endpoints[claimed.permit.upstream].hidden
        for secret in (self._secrets[claimed.permit.key].get_secret_value(), *hidden, *self._past):
            if len(secret) >= _REDACTED_FROM:
                body = body.replace(secret.encode(), b"[key]")
        return body

    @contextmanager
    def open(self, claimed: Claimed, may_send: MaySend) -> Iterator[HttpResponse]:
        """The answer to a call, from its first byte on. Raises IncompleteCall.

        1. Get a connection. 2. Ask whether to send: what connecting took counts. 3. Send. 4. Read the head. Once the
        body has been read to its end, the connection is kept for another call; otherwise it is closed.
        """
        endpoint = self._endpoints[claimed.permit.upstream]
        with (
            self._tracked(endpoint.new_call(claimed.timeout)) as call,
            _connection(endpoint, call) as pooled,
        ):
            if not may_send():
                raise not_sent("permission to send did not come in time")
            call.sending(open_socket_of(pooled), self._clock.now())
            pooled.reusable = False
            answer = HttpResponse(
                call, self._send(pooled.connection, endpoint, claimed, call), self._clock.now()
            )
            yield answer
            pooled.reusable = answer.whole

    def wire(self) -> tuple[int, int]:
        """Calls begun by this process, and connections opened for them."""
        opened = sum(endpoint.connections.opened for endpoint in self._endpoints.values())
        return self._begun, self._opened_before + opened

    def abort(self) -> None:
        """Cut off every call in flight, and refuse those that have not sent yet."""
        with self._lock:
            self._aborted = True
            calls = list(self._calls)
        for call in calls:
            call.abort()

    def close(self) -> None:
        """Close idle connections."""
        for endpoint in self._endpoints.values():
            endpoint.connections.close()

    @contextmanager
    def _tracked(self, call: UpstreamCall) -> Iterator[UpstreamCall]:
        with self._lock:
            self._begun += 1
            self._calls.add(call)
            if self._aborted:
                call.abort()
        try:
            yield call
        finally:
            with self._lock:
                self._calls.discard(call)

    def _send(
        self, connection: HTTPConnection, endpoint: Endpoint, claimed: Claimed, call: UpstreamCall
    ) -> BaseHTTPResponse:
        headers = {
            "user-agent": USER_AGENT,
            # Compressed events arrive in blocks, not as they happen.
            "accept-encoding": "identity" if claimed.stream else "gzip",
            **endpoint.connections.headers,
            **endpoint.profile.auth_header(self._secrets[claimed.permit.key].get_secret_value()),
            "content-type": "application/json",
            "accept": "text/event-stream" if claimed.stream else "application/json",
            "x-penstock-task": claimed.permit.task_id,
        }
        try:
            body = body_of(claimed, endpoint.defaults, endpoint.profile.passes)
            if endpoint.gzip and len(body) >= _GZIP_FROM:
                body, headers["content-encoding"] = gzip.compress(body, _GZIP_LEVEL), "gzip"
            connection.request("POST", endpoint.path, body=body, headers=headers, preload_content=False)
            response = connection.getresponse()
        except TRANSPORT_EXCEPTIONS as error:
            raise IncompleteCall(call.fault(error)) from None
        call.reading(body=claimed.stream)  # a stream has begun; another answer may still be made
        return response


@contextmanager
def _connection(endpoint: Endpoint, call: UpstreamCall) -> Iterator[Pooled]:
    """A connection for this call, which drops the socket before another call can use it."""
    try:
        pooled = endpoint.connections.acquire()
    except TRANSPORT_EXCEPTIONS as error:
        raise IncompleteCall(call.fault(error)) from None
    pooled.reusable = True  # until something is sent
    try:
        yield pooled
    finally:
        call.done()
        endpoint.connections.release(pooled)


def _endpoint(
    upstream: UpstreamSettings, headers: UpstreamHeaders, concurrency: int, clock: Clock
) -> Endpoint:
    connections = UpstreamConnections(upstream, max_idle=concurrency, clock=clock, headers=headers)
    profile = profile_of(upstream)
    query = f"?{urlencode(profile.query)}" if profile.query else ""
    return Endpoint(
        f"{connections.base}{urlsplit(upstream.base_url).path}/chat/completions{query}",
        upstream.timeout,
        upstream.first_byte_timeout,
        upstream.idle_timeout,
        upstream.max_body,
        connections,
        upstream.gzip,
        dict(upstream.defaults),
        headers.hidden,
        profile,
    )


def profile_of(upstream: UpstreamSettings) -> UpstreamProfile:
    """What an upstream says and accepts."""
    return UpstreamProfile(
        effective_profile(profile_name(upstream.profile, upstream.base_url), upstream.quirks)
    )


def body_of(
    claimed: Claimed, defaults: Mapping[str, Any] | None = None, passes: Collection[str] = ()
) -> bytes:
    """The request's JSON with the upstream's model name in front, without parameters that equal `defaults`.

    `passes`: which fields that are Penstock's, too, the upstream knows.
    It is parsed only if it has to be changed.
    """
    fixes = remembered_fixes(claimed.avoid)
    head = b'{"model":' + orjson.dumps(claimed.permit.upstream_model)
    if claimed.stream:
        asks_usage = not any(fix.parameter == STREAM_OPTIONS for fix in fixes)
        head += _STREAMED + (_WITH_USAGE if asks_usage else b"")
    text = claimed.request.strip()
    if fixes or defaults or SHARED in text or not text.startswith("{") or text[1:].lstrip().startswith("}"):
        request = pass_shared(orjson.loads(text), passes)
        for fix in fixes:
            request = fix.apply(request)
        request = strip_default_parameters(request, defaults or {})
        text = orjson.dumps(request).decode()
    return head + (b"," if text != "{}" else b"") + text[1:].encode()


class UpstreamGenerations:
    """Upstreams across reloads: the newest configuration that has a call's key makes the call.

    Calls in flight finish under the configuration in which they began. Threads share it: the reload thread replaces
    `_all` and `held`, the others read them.
    """

    def __init__(self, first: Upstreams, held: HeldSecrets) -> None:
        """`held`: the secrets of `first`."""
        self.held = held
        held.on_change(first.take_secrets)
        self._all: tuple[Upstreams, ...] = (first,)  # newest first; an old one keeps no connection open

    def renew(self, newer: Upstreams, held: HeldSecrets) -> None:
        """Use another configuration for new calls."""
        older = self._all[0]
        self.held = held
        held.on_change(newer.take_secrets)
        self._all = (newer, *self._all)
        older.close()

    def call(
        self, claimed: Claimed, may_send: MaySend, pass_on: PassOn | None = None
    ) -> Reply | TransportError:
        """As Upstreams."""
        return self._of(claimed).call(claimed, may_send, pass_on)

    def wire(self) -> tuple[int, int]:
        """Calls begun by this process, and connections opened for them."""
        counts = [one.wire() for one in self._all]
        return sum(calls for calls, _ in counts), sum(opened for _, opened in counts)

    def abort(self) -> None:
        """Cut off every call in flight, and refuse those that have not sent yet."""
        for one in self._all:
            one.abort()

    def close(self) -> None:
        """Close idle connections."""
        for one in self._all:
            one.close()

    def _of(self, claimed: Claimed) -> Upstreams:
        permit = claimed.permit
        self.held.before_call(permit.key)
        return next((one for one in self._all if one.knows(permit.key, permit.upstream)), self._all[0])
