"""Requests per minute, as access control needs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Rate:
    """How a client stands with its requests per minute."""

    allowed: bool
    rpm: int
    left: int
    retry_after: float  # seconds until the next one would be let pass
    full_in: float  # seconds until all of them are there again


class RequestRates(Protocol):
    """Counts clients' requests, over all API processes."""

    def take(self, client_id: str, rpm: int) -> Rate | None:
        """Count one request. None: nobody knows, and it is let pass. Never raises, never takes long."""


class NoRates:
    """Counts nothing."""

    def take(self, client_id: str, rpm: int) -> Rate | None:  # noqa: ARG002
        """Lets everything pass."""
        return None
