"""Figures of the whole service, read when somebody asks: whichever process answers, they are the same.

So they are never summed over processes: `max by (...)` is right for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from app.platform.domain.names import folded_counts
from app.reporting.domain.service_status import ServiceStatus, breaker_state
from app.reporting.meters import cpu_busy

STATES = ("closed", "open", "half_open")
# Name, help, labels. A name that ends in _total is a counter's.
SERVICE_FIGURES: dict[str, tuple[str, tuple[str, ...]]] = {
    "penstock_redis_up": ("Whether Redis answers.", ()),
    "penstock_database_up": ("Whether the database answers.", ()),
    "penstock_leader_up": ("Whether a dispatcher leads.", ()),
    "penstock_workers": ("Workers that reported in the last seconds.", ()),
    "penstock_worker_slots": ("Calls that these may hold.", ()),
    "penstock_tasks_waiting": ("Tasks that could run.", ("model",)),
    "penstock_client_tasks_waiting": ("Tasks that wait, for whatever reason.", ("client",)),
    "penstock_oldest_wait_seconds": ("Since when the task has been able to run that waits longest.", ()),
    "penstock_oldest_wait_ratio": ("The largest part of a deadline that waiting has used.", ()),
    "penstock_quota_in_flight": ("Calls in flight.", ("quota",)),
    "penstock_quota_in_flight_limit": ("Calls that may be in flight, told or learned.", ("quota",)),
    "penstock_quota_requests_per_second_limit": ("Calls a second, told or learned.", ("quota",)),
    "penstock_quota_braked_seconds": ("For how long nothing passes.", ("quota",)),
    "penstock_quota_brakes_total": ("Brakes since Redis began.", ("quota",)),
    "penstock_breaker_state": ("1 for the state in which a breaker is.", ("upstream", "model", "state")),
    "penstock_key_disabled": ("1 for a key that its upstream refuses.", ("key",)),
    "penstock_account_without_balance": ("1 for an account that cannot pay.", ("account",)),
    "penstock_client_budget_used_ratio": ("The largest used part of a client's budgets.", ("client",)),
    "penstock_host_cpu_ratio": ("Busy part of this machine's CPUs since the last look.", ()),
}


class ServiceFigures:
    """A registry's collector."""

    def __init__(self, read: Callable[[], ServiceStatus], clients: int = 50) -> None:
        """`clients`: how many of them are told apart."""
        self._read = read
        self._clients = clients
        cpu_busy()  # the first answer would cover no time

    def collect(self) -> Iterator[Metric]:
        """All of them, as things stand."""
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
    sights = {name: sight for name, sight in seen.quotas.items() if not name.startswith("upstream:")}
    braked = {(name,): sight for name, sight in seen.quotas.items() if sight.brakes or sight.braked}
    breakers: dict[tuple[str, ...], float] = {}
    for name, sight in seen.quotas.items():
        kind, _, rest = name.partition(":")
        upstream, _, model = rest.partition(":")
        if kind == "upstream" and model != "*":
            breakers |= {(upstream, model, state): float(state == breaker_state(sight)) for state in STATES}
    limited = {(name,): s for name, s in sights.items() if s.cap is not None or s.rate is not None}
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
