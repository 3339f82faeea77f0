"""What was used, paid and saved; and how often connections were opened for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.billing.domain.usage import UsageFilter
from app.billing.store import usage
from app.execution.store import workers
from app.pacing.domain.throughput import Quality, quality
from app.pacing.store.lines import start_estimates
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

    def estimate_quality(self, client_id: str, limit: int) -> Quality:
        """Estimated and actual starts of a client's newest successful tasks. Raises DatabaseUnreachable."""
        return quality(self._database.read(lambda conn: start_estimates(conn, client_id, limit)))
