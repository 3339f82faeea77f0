"""Calls to upstreams: one POST each within a total time, to the answer's last byte.

`Upstreams.open` gives an answer whose chunks can be passed on as they come; `Upstreams.call` reads it whole.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import orjson
from pydantic import SecretStr
from urllib3.connection import HTTPConnection
from urllib3.response import BaseHTTPResponse

from app.platform.ports import Clock
from app.settings import Settings, UpstreamHeaders, UpstreamSettings
from app.tasks.domain.attempt import Claimed
from app.upstreams.domain import request_parameters
from app.upstreams.domain.reply import Reply, TransportError
from app.upstreams.domain.request_parameters import strip_default_parameters
from app.upstreams.held_secrets import HeldSecrets
from app.upstreams.upstream_call import (
    TROUBLES,
    HttpResponse,
    IncompleteCall,
    PassOn,
    StreamReading,
    UpstreamCall,
    not_sent,
)
from app.upstreams.upstream_connections import ConnectionPool, PooledConnection

USER_AGENT = "Penstock/1"
_STREAMED = b',"stream":true,"stream_options":{"include_usage":true}'
_PACKING = 5  # zlib's level: nearly as small as 9, in a third of the time
_PACKED_FROM = 1400  # bytes: less fits into one packet as it is
_MOST_PAST = 64  # replaced secrets that are still struck out of answers
_REDACTED_FROM = 8  # characters: a shorter secret would be found in ordinary words


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an upstream takes chat completions, and what one call there may come to."""

    path: str
    timeout_seconds: float
    max_body: int
    connections: ConnectionPool = field(repr=False)
    gzip: bool = False  # whether it accepts requests packed by it
    defaults: Mapping[str, Any] = field(default_factory=dict)  # parameters that it assumes anyway
    hidden: tuple[str, ...] = field(
        default=(), repr=False
    )  # secrets beside the key's that its answers may echo


class Upstreams:
    """All configured upstreams. May be used by many threads; holds the secrets and shows them to nobody."""

    def __init__(
        self,
        settings: Settings,
        secrets: Mapping[str, SecretStr],
        *,
        concurrency: int,
        clock: Clock,
        outfits: Mapping[str, UpstreamHeaders] | None = None,
    ) -> None:
        """`secrets` by key name, `outfits` by upstream; `concurrency`: calls at once in this process.

        With outfits only their upstreams can be called. Raises ConfigError where one cannot be.
        """
        self._clock = clock
        self._secrets = secrets
        if outfits is None:
            outfits = {upstream.name: UpstreamHeaders(upstream.headers) for upstream in settings.upstreams}
        self._endpoints = {
            upstream.name: _endpoint(upstream, outfits[upstream.name], concurrency, clock)
            for upstream in settings.upstreams
            if upstream.name in outfits
        }
        self._concurrency = concurrency
        self._upstreams = {upstream.name: upstream for upstream in settings.upstreams}
        self._past: tuple[str, ...] = ()  # secrets that were replaced: answers to older calls may echo them
        self._opened_before = 0  # connections of endpoints that were replaced
        self._lock = threading.Lock()
        self._calls: set[UpstreamCall] = set()
        self._begun = 0
        self._aborted = False

    def take_secrets(self, secrets: Mapping[str, SecretStr], outfits: Mapping[str, UpstreamHeaders]) -> None:
        """Make new calls with these, of the keys and upstreams known; calls in flight end with the old ones.

        Raises ConfigError where an upstream cannot be called so.
        """
        changed = {
            name: _endpoint(self._upstreams[name], outfit, self._concurrency, self._clock)
            for name, outfit in outfits.items()
        }
        with self._lock:
            replaced = [self._endpoints[name] for name in changed]
            old = [self._secrets[key].get_secret_value() for key in secrets if key in self._secrets]
            hidden = [value for endpoint in replaced for value in endpoint.hidden]
            self._past = tuple(dict.fromkeys([*old, *hidden, *self._past]))[:_MOST_PAST]
            self._opened_before += sum(endpoint.connections.opened for endpoint in replaced)
            self._secrets = {**self._secrets, **secrets}
            self._endpoints = {**self._endpoints, **changed}
        for endpoint in replaced:
            endpoint.connections.close()

    def knows(self, key: str, upstream: str) -> bool:
        """Whether calls by this key can be made."""
        return key in self._secrets and upstream in self._endpoints

    def call(self, claimed: Claimed, send_by: float) -> Reply | TransportError:
        """Make the call and give back what came of it; raises nothing that an upstream can cause.

        `send_by` is an instant of the monotonic clock after which nothing is sent any more.
        """
        most = self._endpoints[claimed.permit.upstream].max_body
        try:
            with self.open(claimed, send_by) as answer:
                body = answer.read(most)
        except IncompleteCall as failed:
            return failed.fault
        body = self._redacted(claimed, body)
        return Reply(answer.status, answer.headers, body, answer.first_byte_at, sent_at=answer.sent_at)

    def stream(self, claimed: Claimed, send_by: float, pass_on: PassOn) -> Reply | TransportError:
        """Make the call and give its answer's chunks to `pass_on` as they come, in this thread.

        Else as `call`: the reply's body is the whole answer, as if it had not been streamed. `shown` of what is
        given back says whether anything was passed on.
        """
        most = self._endpoints[claimed.permit.upstream].max_body
        reading = StreamReading(most, lambda data: pass_on(self._redacted(claimed, data)))
        try:
            with self.open(claimed, send_by) as answer:
                body = reading.read(answer) if answer.is_stream else answer.read(most)
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
    def open(self, claimed: Claimed, send_by: float) -> Iterator[HttpResponse]:
        """The answer to a call, from its first byte on.

        1. A connection. 2. Is there still time to send? 3. The request. 4. The head of the answer. When the
        body has been read to its end the connection is kept for another call, else closed. Raises IncompleteCall.
        """
        endpoint = self._endpoints[claimed.permit.upstream]
        with self._flight(UpstreamCall(endpoint.timeout_seconds)) as call, _lent(endpoint, call) as loan:
            if self._clock.monotonic() > send_by:
                raise not_sent("the permit had grown old")
            call.sending(loan.socket, self._clock.now())
            loan.clean = False
            answer = HttpResponse(
                call, self._send(loan.connection, endpoint, claimed, call), self._clock.now()
            )
            yield answer
            loan.clean = answer.whole

    def wire(self) -> tuple[int, int]:
        """Calls begun in this process's life, and connections opened for them."""
        opened = sum(endpoint.connections.opened for endpoint in self._endpoints.values())
        return self._begun, self._opened_before + opened

    def abort(self) -> None:
        """End every call in flight, and refuse those that have not sent yet."""
        with self._lock:
            self._aborted = True
            calls = list(self._calls)
        for call in calls:
            call.abort()

    def close(self) -> None:
        """Close what is kept open between calls."""
        for endpoint in self._endpoints.values():
            endpoint.connections.close()

    @contextmanager
    def _flight(self, call: UpstreamCall) -> Iterator[UpstreamCall]:
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
            **endpoint.connections.headers,
            "authorization": f"Bearer {self._secrets[claimed.permit.key].get_secret_value()}",
            "content-type": "application/json",
            "accept": "text/event-stream" if claimed.stream else "application/json",
            "x-penstock-task": claimed.permit.task_id,
        }
        try:
            body = body_of(claimed, endpoint.defaults)
            if endpoint.gzip and len(body) >= _PACKED_FROM:
                body, headers["content-encoding"] = gzip.compress(body, _PACKING), "gzip"
            connection.request("POST", endpoint.path, body=body, headers=headers, preload_content=False)
            response = connection.getresponse()
        except TROUBLES as error:
            raise IncompleteCall(call.fault(error)) from None
        call.reading()
        return response


@contextmanager
def _lent(endpoint: Endpoint, call: UpstreamCall) -> Iterator[PooledConnection]:
    """A connection for this call; the call lets go of its socket before the connection can serve another."""
    try:
        loan = endpoint.connections.borrow()
    except TROUBLES as error:
        raise IncompleteCall(call.fault(error)) from None
    try:
        yield loan
    finally:
        call.done()
        endpoint.connections.give_back(loan)


def _endpoint(
    upstream: UpstreamSettings, outfit: UpstreamHeaders, concurrency: int, clock: Clock
) -> Endpoint:
    connections = ConnectionPool(upstream, most_idle=concurrency, clock=clock, outfit=outfit)
    return Endpoint(
        f"{connections.base}{urlsplit(upstream.base_url).path}/chat/completions",
        upstream.timeout,
        upstream.max_body,
        connections,
        upstream.gzip,
        dict(upstream.defaults),
        outfit.hidden,
    )


def body_of(claimed: Claimed, defaults: Mapping[str, Any] | None = None) -> bytes:
    """The request's JSON with the upstream's model name put in front; parsed only to be changed.

    Parameters that say what `defaults` say are left out.
    """
    head = b'{"model":' + orjson.dumps(claimed.permit.upstream_model) + (_STREAMED if claimed.stream else b"")
    repairs = request_parameters.remembered_fixes(claimed.avoid)
    text = claimed.request.strip()
    if repairs or defaults or not text.startswith("{") or text[1:].lstrip().startswith("}"):
        request = orjson.loads(text)
        for change in repairs:
            request = change.apply(request)
        request = strip_default_parameters(request, defaults or {})
        text = orjson.dumps(request).decode()
    return head + (b"," if text != "{}" else b"") + text[1:].encode()


class UpstreamGenerations:
    """Fits RunTask's port. Calls in flight end in the configuration in which they began."""

    def __init__(self, first: Upstreams, held: HeldSecrets) -> None:
        """`held`: the secrets that calls by `first` carry."""
        self.held = held
        held.tell(first.take_secrets)
        self._all: tuple[Upstreams, ...] = (
            first,
        )  # the newest first; reloads are rare, and an old one holds nothing open

    def renew(self, newer: Upstreams, held: HeldSecrets) -> None:
        """Make new calls by another configuration."""
        older = self._all[0]
        self.held = held
        held.tell(newer.take_secrets)
        self._all = (newer, *self._all)
        older.close()

    def call(self, claimed: Claimed, send_by: float) -> Reply | TransportError:
        """See Upstreams."""
        return self._of(claimed).call(claimed, send_by)

    def stream(self, claimed: Claimed, send_by: float, pass_on: PassOn) -> Reply | TransportError:
        """See Upstreams."""
        return self._of(claimed).stream(claimed, send_by, pass_on)

    def wire(self) -> tuple[int, int]:
        """Calls begun in this process's life, and connections opened for them."""
        counts = [one.wire() for one in self._all]
        return sum(calls for calls, _ in counts), sum(opened for _, opened in counts)

    def abort(self) -> None:
        """End every call in flight, and refuse those that have not sent yet."""
        for one in self._all:
            one.abort()

    def close(self) -> None:
        """Close what is kept open between calls."""
        for one in self._all:
            one.close()

    def _of(self, claimed: Claimed) -> Upstreams:
        permit = claimed.permit
        self.held.before_call(permit.key)
        return next((one for one in self._all if one.knows(permit.key, permit.upstream)), self._all[0])
