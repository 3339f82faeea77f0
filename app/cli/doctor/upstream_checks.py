"""Checks of an upstream and its keys."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import urlsplit

from app.diagnosis.domain.doctor_upstream import (
    Handshake,
    date_skew,
    judge_balance,
    judge_connects,
    judge_handshake,
    judge_headers,
    judge_hops,
    judge_key,
    judge_lookup,
    judge_loss,
    judge_models,
    judge_notices,
    judge_own_proxy,
    judge_proxy,
    judge_skew,
    judge_status_page,
)
from app.diagnosis.domain.finding import Finding, not_measured
from app.diagnosis.examine import Check
from app.diagnosis.probe_upstream import connect_often, get, look_up, shake_hands, trace_hops
from app.platform.ports import SystemClock
from app.settings import Settings, UpstreamSettings
from app.settings.secrets import UpstreamHeaders
from app.upstreams.key_tests import UpstreamPages
from app.upstreams.upstream_call import tls_rules

_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy")


@dataclass(frozen=True)
class Way:
    """The measured connection to an upstream, or to its proxy if it has one."""

    upstream: UpstreamSettings
    headers: UpstreamHeaders = field(default_factory=UpstreamHeaders, repr=False)

    @cached_property
    def host(self) -> str:
        """The name or address to connect to."""
        return urlsplit(self.upstream.proxy or self.upstream.base_url).hostname or ""

    @cached_property
    def port(self) -> int:
        """The URL's port, else the scheme's default."""
        parts = urlsplit(self.upstream.proxy or self.upstream.base_url)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def shakes_hands(self) -> bool:
        """Whether the connection itself uses TLS."""
        return self.upstream.base_url.startswith("https:") and not self.upstream.proxy

    def network(self) -> list[Finding]:
        """Check DNS, connections and TLS in order; each needs the one before."""
        lookup = look_up(self.host, self.port)
        if lookup.error:
            return [judge_lookup(lookup)]
        living = [address for address in lookup.addresses if address not in lookup.dead]
        connects = connect_often(living or lookup.addresses, self.port)
        found = [judge_lookup(lookup), judge_connects(connects), judge_loss(connects)]
        if not connects.seconds or not self.shakes_hands:
            return found
        return [*found, judge_handshake(self._handshake(), time.time())]

    def hops(self) -> list[Finding]:
        """Check the routers on the way."""
        lookup = look_up(self.host, self.port)
        if lookup.error:
            return [not_measured("hops", f"{self.host} does not resolve", "Fix DNS first.")]
        return [judge_hops(trace_hops(lookup.addresses[0], self.port), lookup.addresses[0])]

    @cached_property
    def pages(self) -> UpstreamPages:
        """The upstream's other endpoints (models, balance)."""
        return UpstreamPages(self.upstream, clock=SystemClock(), headers=self.headers)

    def answer(self) -> list[Finding]:
        """Check the clock and any proxy in between, from an answer without a key."""
        page = self.pages.models()
        answered_at = page.asked_at + page.seconds
        skew = date_skew(page.headers.get("date"), page.asked_at, answered_at) if page.status else None
        clock = judge_skew(skew, "its Date header")
        if self.upstream.proxy:
            return [clock, judge_own_proxy(self.upstream.proxy, page)]
        issuer = self._handshake().issuer if self.shakes_hands else ""
        variables = [name for name in _PROXIES if os.environ.get(name)]
        return [clock, judge_proxy(page, issuer, variables)]

    def key(self, name: str, secret: str, models: Sequence[str]) -> list[Finding]:
        """Check one key, its models, balance and limits."""
        listed = self.pages.models(secret)
        if (refused := judge_key(listed, name)) is not None:
            return [refused]
        balance = self.pages.balance(secret)
        return [judge_models(listed, models), judge_balance(balance), judge_headers([listed, balance])]

    def status_page(self) -> list[Finding]:
        """Check the provider's status page and its notices, if configured."""
        address = self.upstream.status_page
        if not address:
            hint = "Set status_page of this [[upstream]], if its provider has one."
            return [not_measured("status page", "none configured, so no notices either", hint)]
        summary = get(address.replace("/status.json", "/summary.json"))
        return [judge_status_page(get(address)), judge_notices(summary)]

    def _handshake(self) -> Handshake:
        return shake_hands(self.host, self.port, tls_rules(self.upstream))


def upstream_checks(
    settings: Settings, secrets: Mapping[str, str], headers: Mapping[str, UpstreamHeaders]
) -> list[Check]:
    """Checks of all upstreams and their keys. A missing secret is a finding of the configuration check."""
    found: list[Check] = []
    for upstream in settings.upstreams:
        if upstream.name not in headers:
            continue
        way = Way(upstream, headers[upstream.name])
        section = f"Upstream {upstream.name}"
        looks: dict[str, Callable[[], Sequence[Finding]]] = {
            "network": way.network,
            "hops": way.hops,
            "answer": way.answer,
            "status page": way.status_page,
        }
        found += [Check(section, name, look) for name, look in looks.items()]
        names = [key.name for key in settings.keys if key.upstream == upstream.name and key.name in secrets]
        found += [
            Check(f"Key {name}", "key", _Key(way, name, secrets[name], _models(settings, name)))
            for name in names
        ]
    return found


@dataclass(frozen=True, slots=True)
class _Key:
    way: Way
    name: str
    secret: str = field(repr=False)
    models: tuple[str, ...]

    def __call__(self) -> list[Finding]:
        return self.way.key(self.name, self.secret, self.models)


def _models(settings: Settings, key: str) -> tuple[str, ...]:
    """The upstream's names of the models that are routed to a key."""
    routes = (route for model in settings.models for tier in model.routes() for route in tier)
    return tuple(dict.fromkeys(route.upstream_model for route in routes if route.key == key))
