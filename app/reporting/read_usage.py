"""What was used, paid and saved; and how often connections were opened for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.billing.store import usage
from app.billing.store.usage import UsageFilter
from app.execution.store import workers
from app.platform.database import Database


@dataclass(frozen=True, slots=True)
class UpstreamTraffic:
    """Upstream calls of the last day's worker processes, and connections opened for them."""

    calls: int
    connections: int

    @property
    def per_thousand(self) -> float | None:
        """Connections opened for 1,000 calls; None before the first call."""
        return round(1000 * self.connections / self.calls, 2) if self.calls else None


class ReadUsage:
    """The use case."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def report(self, wanted: UsageFilter) -> list[dict[str, Any]]:
        """Figures by what is asked for. Raises DatabaseUnreachable."""
        return self._database.read(lambda conn: usage.report(conn, wanted))

    def wire(self, since: float) -> UpstreamTraffic:
        """Calls and connections of workers that have beaten since an instant. Raises DatabaseUnreachable."""
        return UpstreamTraffic(*self._database.read(lambda conn: workers.wire(conn, since)))
