"""What a callback worker process consists of."""

from __future__ import annotations

import os
import random
import socket
import time

from app.callbacks.callback_http import CallbackHttp, HostConcurrencyLimiter, HostLimits
from app.callbacks.deliver_callback import CallbackDelivery
from app.composition.container import Container
from app.platform.domain.url_rules import TargetRules, parse_networks, parse_ports


def build_callback_delivery(parts: Container) -> CallbackDelivery:
    """Build what delivers callbacks: one for each callback worker process."""
    settings = parts.settings.callbacks
    rules = TargetRules(parse_ports(settings.ports), parse_networks(settings.allow_networks))
    return CallbackDelivery(
        parts.database,
        CallbackHttp(rules, timeout_seconds=settings.timeout, ca_file=settings.ca_file or None),
        HostConcurrencyLimiter(parts.clock, HostLimits(at_once=settings.per_host)),
        parts.clock,
        worker=f"{socket.gethostname()}:{os.getpid()}",
        chance=random.random,
        pause=time.sleep,
        public_url=settings.public_url,
        tracer=parts.tracer,
        meter=parts.meters,
    )
