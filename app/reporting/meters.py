"""Prometheus metrics: what this process counts (FIGURES) and the state of the service (SERVICE_FIGURES).

Labels are configured names, outcomes and routes: never a caller's text, a prompt or a secret. Figures by client have
names of their own, so that they can be left out for whoever may not see them; clients beyond a number count as
`other`.

Several processes of one machine share a folder (PROMETHEUS_MULTIPROC_DIR, see meter_files.py): prometheus_client
decides for it when it is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.values import ValueClass

from app.platform.background_loop import BackgroundLoop
from app.platform.domain.money import PICOS_PER_UNIT
from app.platform.domain.names import Folded, folded_counts
from app.reporting.domain.snapshot import ServiceStatus, breaker_state
from app.tasks.domain.attempt import AttemptEnd, Outcome

BY_CLIENT = "penstock_client_"  # how the names of all figures by client begin
SAMPLE_SECONDS = 5.0  # between looks at what cannot be counted, in a shared folder
_QUICK = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 1.5, 2.5, 5, 10, 30)
_CALL = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600)
_LONG = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)
_HTTP = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_TICK = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_REFUSED = (Outcome.RATE_LIMITED, Outcome.OVERLOADED)


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric."""

    kind: type[Counter | Histogram | Gauge]
    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


FIGURES: Sequence[Figure] = (
    Figure(Counter, "penstock_tasks_submitted", "Tasks accepted.", ("way", "model")),
    Figure(Counter, "penstock_client_tasks_submitted", "Tasks accepted.", ("client",)),
    Figure(Counter, "penstock_tasks_finished", "Tasks that ended.", ("status",)),
    Figure(Counter, "penstock_attempts", "Upstream calls by outcome.", ("outcome", "model", "key")),
    Figure(Counter, "penstock_refusals", "Calls refused with 429 or 503.", ("outcome", "key")),
    Figure(Counter, "penstock_tokens", "Tokens as counted by upstreams.", ("kind", "model")),
    Figure(Counter, "penstock_client_tokens", "Tokens as counted by upstreams.", ("kind", "client")),
    Figure(Counter, "penstock_cost", "Cost of calls, in units of the currency.", ("currency", "model")),
    Figure(
        Counter, "penstock_client_cost", "Cost of calls, in units of the currency.", ("currency", "client")
    ),
    Figure(Counter, "penstock_cache_lookups", "Cache lookups by tasks.", ("result",)),
    Figure(Counter, "penstock_callbacks", "Callback delivery attempts.", ("result",)),
    Figure(Counter, "penstock_http_requests", "HTTP requests answered.", ("method", "route", "status")),
    Figure(
        Histogram,
        "penstock_http_request_seconds",
        "From request headers to response headers.",
        ("route",),
        _HTTP,
    ),
    Figure(
        Histogram,
        "penstock_task_waiting_seconds",
        "From a task's submission to its first call.",
        ("model",),
        _LONG,
    ),
    Figure(Histogram, "penstock_task_seconds", "From a task's submission to its end.", ("model",), _LONG),
    Figure(
        Histogram,
        "penstock_overhead_seconds",
        "From a task's release to its recorded result, minus the call itself.",
        (),
        _QUICK,
    ),
    Figure(
        Histogram,
        "penstock_upstream_first_byte_seconds",
        "From a call's claim to its first byte.",
        ("key",),
        _CALL,
    ),
    Figure(Histogram, "penstock_upstream_seconds", "Total duration of upstream calls.", ("key",), _CALL),
    Figure(Histogram, "penstock_callback_seconds", "Duration of a callback delivery attempt.", (), _QUICK),
    Figure(
        Histogram,
        "penstock_dispatcher_tick_seconds",
        "Dispatcher ticks, from snapshot to releases.",
        (),
        _TICK,
    ),
    Figure(Counter, "penstock_set_aside", "Entries in Redis that could not be read.", ("kind",)),
    Figure(Counter, "penstock_loop_failures", "Errors of background loops, which then continue.", ("loop",)),
    Figure(Gauge, "penstock_waiters", "Long polls waiting now."),
    Figure(Gauge, "penstock_database_connections", "Pool connections in use."),
    Figure(Gauge, "penstock_database_connections_limit", "Maximum pool connections."),
)


def cpu_busy() -> float:
    """Share of this machine's CPU time in use since the last call in this process."""
    return float(psutil.cpu_percent(None)) / 100


class Meters:
    """One process's metrics, in their own registry. Implements the port Meter. Any thread may count: figures lock."""

    def __init__(self, clients: int = 50) -> None:
        """`clients`: how many clients have their own series."""
        self.registry = CollectorRegistry()
        self._client = Folded(clients)
        self._figures: dict[str, Any] = {figure.name: self._make(figure) for figure in FIGURES}
        self._known: dict[tuple[str, ...], Any] = {}
        self._watched: list[tuple[Any, Callable[[], float]]] = []
        self._sampler = BackgroundLoop("meters", self._sample, every=SAMPLE_SECONDS)

    # -- what happened

    def submitted(self, way: str, client_id: str, model: str, count: int = 1) -> None:
        """Tasks were accepted."""
        self._of("penstock_tasks_submitted", way, model).inc(count)
        self._of("penstock_client_tasks_submitted", self._client(client_id)).inc(count)

    def looked_up(self, *, found: bool) -> None:
        """A task looked up the cache."""
        self._of("penstock_cache_lookups", "hit" if found else "miss").inc()

    def ended(self, counts: Mapping[str, int]) -> None:
        """Tasks ended."""
        for status, count in counts.items():
            self._of("penstock_tasks_finished", status).inc(count)

    def lost(self, model: str, key: str) -> None:
        """A call was lost with its worker."""
        self._of("penstock_attempts", Outcome.LOST.value, model, key).inc()

    def called(self, ending: AttemptEnd, overhead_seconds: float) -> None:
        """A call was recorded."""
        claimed, permit, outcome = ending.claimed, ending.claimed.permit, ending.outcome
        self._of("penstock_attempts", outcome.value, permit.upstream_model, permit.key).inc()
        if outcome in _REFUSED:
            self._of("penstock_refusals", outcome.value, permit.key).inc()
        self._of("penstock_overhead_seconds").observe(overhead_seconds)
        seconds = ending.finished_at - claimed.started_at
        self._of("penstock_upstream_seconds", permit.key).observe(seconds)
        if ending.first_byte_at is not None:
            first = ending.first_byte_at - claimed.started_at
            self._of("penstock_upstream_first_byte_seconds", permit.key).observe(first)
        if claimed.attempts == 0:
            waited = claimed.started_at - claimed.created_at
            self._of("penstock_task_waiting_seconds", claimed.model).observe(waited)
        if ending.status.ended:
            total = ending.finished_at - claimed.created_at
            self._of("penstock_task_seconds", claimed.model).observe(total)
        self._spent(ending)

    def delivered(self, result: str, seconds: float) -> None:
        """A callback delivery was attempted."""
        self._of("penstock_callbacks", result).inc()
        self._of("penstock_callback_seconds").observe(seconds)

    def turned(self, seconds: float) -> None:
        """The dispatcher finished a tick."""
        self._of("penstock_dispatcher_tick_seconds").observe(seconds)

    def set_aside(self, kind: str, count: int = 1) -> None:
        """Entries in Redis could not be read and were set aside."""
        self._of("penstock_set_aside", kind).inc(count)

    def loop_failed(self, loop: str) -> None:
        """A background loop failed and continues."""
        self._of("penstock_loop_failures", loop).inc()

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._of("penstock_http_requests", method, route, str(status)).inc()
        self._of("penstock_http_request_seconds", route).observe(seconds)

    def _spent(self, ending: AttemptEnd) -> None:
        usage, cost = ending.usage, ending.cost
        model, client = ending.claimed.model, self._client(ending.claimed.client_id)
        if usage is not None:
            for kind, count in (
                ("prompt", usage.prompt_tokens),
                ("completion", usage.completion_tokens),
                ("prompt_cached", usage.cached_tokens),
                ("reasoning", usage.reasoning_tokens),
            ):
                if count:
                    self._of("penstock_tokens", kind, model).inc(count)
                    self._of("penstock_client_tokens", kind, client).inc(count)
        if cost is not None and cost.picos:
            self._of("penstock_cost", cost.currency, model).inc(cost.picos / PICOS_PER_UNIT)
            self._of("penstock_client_cost", cost.currency, client).inc(cost.picos / PICOS_PER_UNIT)

    # -- what is looked at

    def watch(self, name: str, read: Callable[[], float]) -> None:
        """Register a gauge that is read at each scrape; in a shared folder every five seconds."""
        gauge = self._figures[name]
        if not self.shared:
            gauge.set_function(read)
            return
        self._watched.append((gauge, read))
        self._sampler.start()

    def serve(self, address: str) -> None:
        """Serve this process's metrics at HOST:PORT. Raises OSError if the port is in use."""
        host, _, port = address.rpartition(":")
        start_http_server(int(port), host.strip("[]"), self.registry)

    def close(self) -> None:
        """Stop reading gauges."""
        self._sampler.stop()

    @cached_property
    def shared(self) -> bool:
        """Whether several processes share one folder."""
        return bool(ValueClass._multiprocess)

    def _sample(self) -> None:
        for gauge, read in list(self._watched):
            gauge.set(read())

    # -- the parts

    def _of(self, *place: str) -> Any:
        """A figure with its labels; found once, as looking them up costs more than counting."""
        known = self._known.get(place)
        if known is None:
            figure = self._figures[place[0]]
            known = self._known[place] = figure.labels(*place[1:]) if len(place) > 1 else figure
        return known

    def _make(self, figure: Figure) -> Any:
        more: dict[str, Any] = {"registry": self.registry}
        if figure.kind is Histogram:
            more["buckets"] = figure.buckets
        if figure.kind is Gauge:
            more["multiprocess_mode"] = "livesum"
        return figure.kind(figure.name, figure.help, figure.labels, **more)


STATES = ("closed", "open", "half_open")
# Name, help, labels. A name that ends in _total is a counter's.
SERVICE_FIGURES: dict[str, tuple[str, tuple[str, ...]]] = {
    "penstock_redis_up": ("Whether Redis answers.", ()),
    "penstock_database_up": ("Whether the database answers.", ()),
    "penstock_leader_up": ("Whether a dispatcher leads.", ()),
    "penstock_workers": ("Workers that reported in the last 5 s.", ()),
    "penstock_worker_slots": ("Calls these workers can hold.", ()),
    "penstock_tasks_waiting": ("Tasks ready to run.", ("model",)),
    "penstock_client_tasks_waiting": ("Tasks waiting for any reason.", ("client",)),
    "penstock_oldest_wait_seconds": ("How long the longest-waiting ready task has been ready.", ()),
    "penstock_oldest_wait_ratio": ("Largest share of a deadline used by waiting.", ()),
    "penstock_quota_in_flight": ("Calls in flight.", ("quota",)),
    "penstock_quota_in_flight_limit": ("Concurrent calls allowed, configured or learned.", ("quota",)),
    "penstock_quota_requests_per_second_limit": (
        "Calls per second allowed, configured or learned.",
        ("quota",),
    ),
    "penstock_quota_braked_seconds": ("Seconds until the quota accepts calls again.", ("quota",)),
    "penstock_quota_brakes_total": ("Pauses after refusals since Redis started.", ("quota",)),
    "penstock_breaker_state": ("1 for the circuit breaker's current state.", ("upstream", "model", "state")),
    "penstock_key_disabled": ("1 for a key its upstream refuses.", ("key",)),
    "penstock_account_without_balance": ("1 for an account without balance.", ("account",)),
    "penstock_client_budget_used_ratio": ("Largest used share of a client's budgets.", ("client",)),
    "penstock_host_cpu_ratio": ("Share of this machine's CPU time in use since the last scrape.", ()),
}


class ServiceFigures:
    """A registry's collector."""

    def __init__(self, read: Callable[[], ServiceStatus], clients: int = 50) -> None:
        """`clients`: how many clients have their own series."""
        self._read = read
        self._clients = clients
        cpu_busy()  # the first answer would cover no time

    def collect(self) -> Iterator[Metric]:
        """All of them, as they are now."""
        for name, samples in self._samples(self._read()).items():
            words, labels = SERVICE_FIGURES[name]
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(name, words, labels=labels)
            for place, value in samples.items():
                family.add_metric(place, value)
            yield family

    def _samples(self, seen: ServiceStatus) -> dict[str, dict[tuple[str, ...], float]]:
        found = {**_service(seen), **_quotas(seen)}
        found["penstock_tasks_waiting"] = {(name,): n for name, n in seen.waiting_by_model.items()}
        clients = folded_counts(dict(seen.waiting_by_client), self._clients)
        found["penstock_client_tasks_waiting"] = {(name,): n for name, n in clients.items()}
        found["penstock_key_disabled"] = {(name,): bad for name, bad in seen.disabled.items()}
        found["penstock_account_without_balance"] = {(n,): bad for n, bad in seen.without_balance.items()}
        nearest = sorted(seen.budgets.items(), key=lambda item: -item[1])[: self._clients]
        found["penstock_client_budget_used_ratio"] = {(name,): share for name, share in nearest}
        return {name: samples for name, samples in found.items() if samples}


def _service(seen: ServiceStatus) -> dict[str, dict[tuple[str, ...], float]]:
    facts: dict[str, float] = {
        "penstock_redis_up": seen.redis,
        "penstock_database_up": seen.database,
        "penstock_leader_up": seen.leads,
        "penstock_workers": seen.workers,
        "penstock_worker_slots": seen.slots,
        "penstock_host_cpu_ratio": cpu_busy(),
    }
    if seen.oldest is not None:
        facts["penstock_oldest_wait_seconds"] = seen.oldest.seconds
        facts["penstock_oldest_wait_ratio"] = seen.oldest.share
    return {name: {(): float(value)} for name, value in facts.items()}


def _quotas(seen: ServiceStatus) -> dict[str, dict[tuple[str, ...], float]]:
    quotas = {name: quota for name, quota in seen.quotas.items() if not name.startswith("upstream:")}
    braked = {(name,): quota for name, quota in seen.quotas.items() if quota.brakes or quota.braked}
    breakers: dict[tuple[str, ...], float] = {}
    for name, quota in seen.quotas.items():
        kind, _, rest = name.partition(":")
        upstream, _, model = rest.partition(":")
        if kind == "upstream" and model != "*":
            breakers |= {(upstream, model, state): float(state == breaker_state(quota)) for state in STATES}
    limited = {(name,): s for name, s in quotas.items() if s.cap is not None or s.rate is not None}
    return {
        "penstock_quota_in_flight": {place: s.flight for place, s in limited.items()},
        "penstock_quota_in_flight_limit": {p: s.cap for p, s in limited.items() if s.cap is not None},
        "penstock_quota_requests_per_second_limit": {
            p: s.rate for p, s in limited.items() if s.rate is not None
        },
        "penstock_quota_braked_seconds": {place: s.braked_for for place, s in braked.items()},
        "penstock_quota_brakes_total": {place: float(s.brakes) for place, s in braked.items()},
        "penstock_breaker_state": breakers,
    }
