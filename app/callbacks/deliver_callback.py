"""The delivery that a callback worker uses now: one for each configuration, closed once its last callback is over."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from app.callbacks.compose_callback import compose_callback
from app.callbacks.domain.callback import DeliveryReply, DeliveryVerdict, HostHealth, judge
from app.callbacks.host_concurrency import Go, HostConcurrencyLimiter, Paused
from app.callbacks.ports import CallbackSender
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

# A claim is taken for abandoned after this time. One try takes 15 s and a little more; what is left is for
# recording it when the database is away.
CLAIM_SECONDS = 60.0
_RECORD_WITHIN = CLAIM_SECONDS - 5.0
_RECORD_PAUSE = 1.0
_SPREAD = 0.2  # what is put off comes back up to this fraction later, not all at one instant

log = structlog.get_logger(__name__)


class CallbackDelivery:
    """Delivers callbacks in the threads that call it, one process's worth."""

    def __init__(
        self,
        database: Database,
        courier: CallbackSender,
        guard: HostConcurrencyLimiter,
        clock: Clock,
        *,
        worker: str,
        chance: Callable[[], float],
        pause: Callable[[float], object],
        public_url: str = "",
        meter: Meter | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """`worker` names this process in claims, `chance` gives [0, 1), `pause` waits some seconds.

        `public_url` is where clients reach the API: it begins the URLs of results too large to send.
        """
        self._meter = meter or NoMeter()
        self._tracer = tracer or NoTracer()
        self._database = database
        self._courier = courier
        self._guard = guard
        self._clock = clock
        self._worker = worker
        self._chance = chance
        self._pause = pause
        self._public_url = public_url

    def deliver(self, callback_id: str) -> None:
        """Deliver a callback, then what waits in line for the same host.

        1. See where it goes; nothing is done when somebody was first or it is not due.
        2. Ask whether its host takes one more: it may have to stand in line, or be put off.
        3. Claim it.
        4. Put it together, sign it, send it.
        5. Record what came of it.
        6. Take the next in line.

        Raises DatabaseUnreachable while nothing is sent; the row is rung again.
        """
        host = self._deliver(callback_id)
        if host is not None:
            with self._line_kept(host):
                while (following := self._guard.take_next(host)) is not None:
                    self._deliver(following)

    def stop(self) -> None:
        """Let nobody wait in line any more: what is not claimed is left to other processes."""
        self._guard.close()

    def close(self) -> None:
        """Close the connections that are kept between callbacks. Nothing is delivered afterwards."""
        self._courier.close()

    def _deliver(self, callback_id: str) -> str | None:
        """Steps 1 to 5; gives back the host, None when the callback is not due."""
        url = self._database.read(lambda conn: due_url(conn, callback_id, self._clock.now()))
        if url is None:
            return None
        host = host_of(url)
        with self._line_kept(host):
            decision = self._guard.enter(host, callback_id)
            if isinstance(decision, Paused):
                self._put_off(callback_id, host, decision.seconds)
            elif isinstance(decision, Go):
                self._try(callback_id, host)
        return host

    @contextmanager
    def _line_kept(self, host: str) -> Iterator[None]:
        """Who fails here takes nobody along: without another to do so, the line is left to the feeder."""
        try:
            yield
        except BaseException:
            self._guard.abandon(host)
            raise

    def _put_off(self, callback_id: str, host: str, seconds: float) -> None:
        until = self._clock.now() + seconds * (1 + _SPREAD * self._chance())
        self._database.write(lambda conn: put_off(conn, callback_id, host, until))

    def _try(self, callback_id: str, host: str) -> None:
        """Steps 3 to 5, for a host that has taken one more."""
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
            self._guard.leave(host, health, verdict.pause_seconds if verdict else 0.0)
        record = _record(claimed, host, started_at, self._clock.now(), answer, verdict)
        self._record(record, until=claimed_at + _RECORD_WITHIN)

    def _claim(self, callback_id: str) -> ClaimedCallback | None:
        now = self._clock.now()
        return self._database.write(lambda conn: claim_callback(conn, callback_id, self._worker, now))

    def _traced(self, claimed: ClaimedCallback) -> DeliveryReply:
        """Send it, as a part of the trace that its task belongs to."""
        ids = {"client_id": claimed.client_id, "task_id": claimed.task_id, "batch_id": claimed.batch_id}
        known = {name: value for name, value in ids.items() if value is not None}
        parent, told = self._trace_of(claimed.task_id), {"client": claimed.client_id, "task": claimed.task_id}
        with (
            structlog.contextvars.bound_contextvars(callback_id=claimed.id, **known),
            self._tracer.span("callback", parent, callback=claimed.id, number=claimed.tries, **told) as span,
        ):
            answer = self._send(claimed)
            span.tell(status=answer.status_code)
            return answer

    def _trace_of(self, task_id: str | None) -> str | None:
        if task_id is None or not self._tracer.enabled:
            return None
        found = self._database.read(lambda conn: traces_of(conn, [task_id]))
        return found[task_id].trace if task_id in found else None

    def _send(self, claimed: ClaimedCallback) -> DeliveryReply:
        try:
            parcel = compose_callback(self._database, claimed, self._public_url, self._clock.now())
        except DatabaseUnreachable:
            raise
        except Exception:
            # What is wrong with one callback must not keep it in our hands for ever.
            log.exception("callback cannot be put together", callback=claimed.id)
            return DeliveryReply(
                error="internal error: it could not be put together", sent=False, hopeless=True
            )
        if parcel is None:
            return DeliveryReply(error="what it tells of is gone", sent=False, hopeless=True)
        return self._courier.send(parcel)

    def _judge(self, claimed: ClaimedCallback, answer: DeliveryReply) -> DeliveryVerdict:
        tries = claimed.tries - claimed.tries_before
        return judge(answer, tries=tries, now=self._clock.now(), chance=self._chance())

    def _record(self, record: DeliveryRecord, until: float) -> None:
        """Record it, again and again while the database is away; given up when the claim is about to lapse."""
        while True:
            try:
                held = self._database.write(lambda conn: record_delivery(conn, record))
            except DatabaseUnreachable:
                if self._clock.monotonic() >= until:
                    log.warning("callback not recorded, it will be sent again", callback=record.callback_id)
                    return
                self._pause(_RECORD_PAUSE)
            else:
                _tell(record, held=held)
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


def _tell(record: DeliveryRecord, *, held: bool) -> None:
    """One line for the operator: no path, no body, no header."""
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
    """Locked; may be used by many threads. A replaced delivery ends what it has in the air, then closes its sockets."""

    def __init__(self, make: Callable[[], CallbackDelivery]) -> None:
        """`make` is called at the first callback: a process that gets none opens nothing."""
        self._lock = threading.Lock()
        self._make = make
        self._newest: CallbackDelivery | None = None
        self._users: Counter[CallbackDelivery] = Counter()
        self._stopped = False

    def deliver(self, callback_id: str) -> None:
        """Deliver one callback, and what waits in line behind it. Raises what `CallbackDelivery.deliver` does."""
        with self._used() as delivery:
            delivery.deliver(callback_id)

    def replace(self, make: Callable[[], CallbackDelivery]) -> None:
        """Use another one from the next callback on. What stood in line is rung again, and goes to that one."""
        with self._lock:
            self._make = make
            old, self._newest = self._newest, None
            idle = old is not None and old not in self._users
        if old is not None:
            old.stop()
            if idle:
                old.close()

    def stop(self) -> None:
        """Begin nothing more beside what is in the air: this process ends."""
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
