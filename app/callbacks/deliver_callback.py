"""Deliver one callback: at least once, under one id, without letting its host delay any other."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from app.callbacks.callback_http import Go, HostConcurrencyLimiter, Paused
from app.callbacks.compose_callback import compose_callback
from app.callbacks.domain.callback import CallbackSender, DeliveryReply, DeliveryVerdict, HostHealth, judge
from app.callbacks.store.callbacks import (
    ClaimedCallback,
    DeliveryRecord,
    claim_callback,
    due_url,
    put_off,
    record_delivery,
)
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.domain.url_rules import host_of
from app.platform.ports import Clock, NoTracer, Tracer
from app.tasks.domain.task import CallbackState
from app.tasks.ports import Meter, NoMeter
from app.tasks.store.tasks import traces_of

# A claim older than this counts as abandoned. One try takes little more than 15 s; the rest is for recording its result
# while the database is away.
CLAIM_SECONDS = 60.0
_RECORD_WITHIN = CLAIM_SECONDS - 5.0
_RECORD_PAUSE = 1.0
_SPREAD = 0.2  # postponed callbacks return up to this fraction later, not all at once

log = structlog.get_logger(__name__)


class CallbackDelivery:
    """Delivers callbacks, each in the thread that calls `deliver`. One for each process and configuration.

    Threads share only the limiter, the sender and the database, which lock for themselves.
    """

    def __init__(
        self,
        database: Database,
        sender: CallbackSender,
        limiter: HostConcurrencyLimiter,
        clock: Clock,
        *,
        worker: str,
        chance: Callable[[], float],
        pause: Callable[[float], object],
        public_url: str = "",
        meter: Meter | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """`worker` names this process in claims, `chance` returns a number in [0, 1), `pause` sleeps for some seconds.

        `public_url` is where clients reach the API: the prefix of URLs of results too large to send.
        """
        self._meter = meter or NoMeter()
        self._tracer = tracer or NoTracer()
        self._database = database
        self._sender = sender
        self._limiter = limiter
        self._clock = clock
        self._worker = worker
        self._chance = chance
        self._pause = pause
        self._public_url = public_url

    def deliver(self, callback_id: str) -> None:
        """Deliver a callback, then those queued for the same host.

        1. Read its URL; stop if another worker was first or it is not due.
        2. Ask the host's limiter for a slot: it may be queued, or postponed.
        3. Claim it.
        4. Compose, sign and send it.
        5. Record the result.
        6. Continue with the next in the host's queue.

        Raises DatabaseUnreachable before anything is sent; the leader publishes the row again.
        """
        host = self._deliver(callback_id)
        if host is not None:
            with self._queue_kept(host):
                while (following := self._limiter.take_next(host)) is not None:
                    self._deliver(following)

    def stop(self) -> None:
        """Empty the queues of hosts: what is not claimed is left to other processes."""
        self._limiter.close()

    def close(self) -> None:
        """Close the connections that are kept between callbacks. Nothing is delivered afterwards."""
        self._sender.close()

    def _deliver(self, callback_id: str) -> str | None:
        """Steps 1 to 5; returns the host, None if the callback is not due."""
        url = self._database.read(lambda conn: due_url(conn, callback_id, self._clock.now()))
        if url is None:
            return None
        host = host_of(url)
        with self._queue_kept(host):
            decision = self._limiter.enter(host, callback_id)
            if isinstance(decision, Paused):
                self._put_off(callback_id, host, decision.seconds)
            elif isinstance(decision, Go):
                self._try(callback_id, host)
        return host

    @contextmanager
    def _queue_kept(self, host: str) -> Iterator[None]:
        """If this thread fails and no other delivers to the host, leave its queue to the leader."""
        try:
            yield
        except BaseException:
            self._limiter.abandon(host)
            raise

    def _put_off(self, callback_id: str, host: str, seconds: float) -> None:
        until = self._clock.now() + seconds * (1 + _SPREAD * self._chance())
        self._database.write(lambda conn: put_off(conn, callback_id, host, until))

    def _try(self, callback_id: str, host: str) -> None:
        """Steps 3 to 5, with a slot of the host."""
        verdict: DeliveryVerdict | None = None
        claimed_at = self._clock.monotonic()
        try:
            claimed = self._claim(callback_id)
            if claimed is None:
                return
            started_at = self._clock.now()
            answer = self._traced(claimed)
            verdict = self._judge(claimed, answer)
        finally:
            health = verdict.health if verdict else HostHealth.UNKNOWN
            self._limiter.leave(host, health, verdict.pause_seconds if verdict else 0.0)
        record = _record(claimed, host, started_at, self._clock.now(), answer, verdict)
        self._record(record, until=claimed_at + _RECORD_WITHIN)

    def _claim(self, callback_id: str) -> ClaimedCallback | None:
        now = self._clock.now()
        return self._database.write(lambda conn: claim_callback(conn, callback_id, self._worker, now))

    def _traced(self, claimed: ClaimedCallback) -> DeliveryReply:
        """Send it within the trace of its task."""
        ids = {"client_id": claimed.client_id, "task_id": claimed.task_id, "batch_id": claimed.batch_id}
        known = {name: value for name, value in ids.items() if value is not None}
        parent, owner = (
            self._trace_of(claimed.task_id),
            {"client": claimed.client_id, "task": claimed.task_id},
        )
        with (
            structlog.contextvars.bound_contextvars(callback_id=claimed.id, **known),
            self._tracer.span("callback", parent, callback=claimed.id, number=claimed.tries, **owner) as span,
        ):
            answer = self._send(claimed)
            span.set(status=answer.status_code)
            return answer

    def _trace_of(self, task_id: str | None) -> str | None:
        if task_id is None or not self._tracer.enabled:
            return None
        found = self._database.read(lambda conn: traces_of(conn, [task_id]))
        return found[task_id].trace if task_id in found else None

    def _send(self, claimed: ClaimedCallback) -> DeliveryReply:
        try:
            signed = compose_callback(self._database, claimed, self._public_url, self._clock.now())
        except DatabaseUnreachable:
            raise
        except Exception:
            # A fault in one callback must not leave it claimed indefinitely.
            log.exception("callback cannot be composed", callback=claimed.id)
            return DeliveryReply(
                error="internal error: the callback could not be composed", sent=False, hopeless=True
            )
        if signed is None:
            return DeliveryReply(error="its task or batch no longer exists", sent=False, hopeless=True)
        return self._sender.send(signed)

    def _judge(self, claimed: ClaimedCallback, answer: DeliveryReply) -> DeliveryVerdict:
        tries = claimed.tries - claimed.tries_before
        return judge(answer, tries=tries, now=self._clock.now(), chance=self._chance())

    def _record(self, record: DeliveryRecord, until: float) -> None:
        """Record the result; retry while the database is away, until the claim is about to lapse."""
        while True:
            try:
                held = self._database.write(lambda conn: record_delivery(conn, record))
            except DatabaseUnreachable:
                if self._clock.monotonic() >= until:
                    log.warning(
                        "callback result not recorded, it will be sent again", callback=record.callback_id
                    )
                    return
                self._pause(_RECORD_PAUSE)
            else:
                _log_delivery(record, held=held)
                self._meter.delivered(record.state.value, record.finished_at - record.started_at)
                return


def _record(
    claimed: ClaimedCallback,
    host: str,
    started_at: float,
    finished_at: float,
    answer: DeliveryReply,
    verdict: DeliveryVerdict,
) -> DeliveryRecord:
    return DeliveryRecord(
        callback_id=claimed.id,
        number=claimed.tries,
        host=host,
        state=verdict.state,
        started_at=started_at,
        finished_at=finished_at,
        status_code=answer.status_code,
        error=verdict.error,
        next_at=verdict.next_at,
    )


def _log_delivery(record: DeliveryRecord, *, held: bool) -> None:
    """Log one line for the operator: no path, no body, no header."""
    log.log(
        logging.WARNING if record.state is CallbackState.FAILED else logging.INFO,
        "callback tried",
        callback=record.callback_id,
        number=record.number,
        host=record.host,
        state=record.state.value if held else "no longer ours",
        status_code=record.status_code,
        error=record.error,
        seconds=round(record.finished_at - record.started_at, 3),
    )


class CurrentDelivery:
    """The delivery in use: one for each configuration. Used by all threads; the lock limiters the fields.

    A replaced delivery finishes what it has in flight; the last thread to leave it closes its connections.
    """

    def __init__(self, make: Callable[[], CallbackDelivery]) -> None:
        """`make` is called at the first callback: a process that receives none opens nothing."""
        self._lock = threading.Lock()
        self._make = make
        self._newest: CallbackDelivery | None = None
        self._users: Counter[CallbackDelivery] = Counter()
        self._stopped = False

    def deliver(self, callback_id: str) -> None:
        """Deliver one callback, then those queued for its host. Raises what `CallbackDelivery.deliver` does."""
        with self._used() as delivery:
            delivery.deliver(callback_id)

    def replace(self, make: Callable[[], CallbackDelivery]) -> None:
        """Use another one from the next callback on. Queued callbacks are published again, and go to that one."""
        with self._lock:
            self._make = make
            old, self._newest = self._newest, None
            idle = old is not None and old not in self._users
        if old is not None:
            old.stop()
            if idle:
                old.close()

    def stop(self) -> None:
        """Start nothing more: this process is ending. What is in flight goes on."""
        with self._lock:
            self._stopped = True
            known = set(self._users) | ({self._newest} if self._newest is not None else set())
        for delivery in known:
            delivery.stop()

    @contextmanager
    def _used(self) -> Iterator[CallbackDelivery]:
        with self._lock:
            delivery = self._take()
            self._users[delivery] += 1
        try:
            yield delivery
        finally:
            self._leave(delivery)

    def _take(self) -> CallbackDelivery:
        if self._newest is None:
            self._newest = self._make()
            if self._stopped:
                self._newest.stop()
        return self._newest

    def _leave(self, delivery: CallbackDelivery) -> None:
        with self._lock:
            self._users[delivery] -= 1
            last = not self._users[delivery]
            if last:
                del self._users[delivery]
            over = last and delivery is not self._newest
        if over:
            delivery.close()
