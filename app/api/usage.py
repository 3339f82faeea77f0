"""/v1/usage and /v1/estimates: what was used, paid and saved, and how good start estimates were."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Literal

from flask import Response
from flask.typing import ResponseReturnValue
from pydantic import Field

from app.access.domain.caller import Caller
from app.api.access_control import Callers
from app.api.operations import Operation, ResponseDoc
from app.api.queries import Query, read_query
from app.api.responses import answer
from app.api.shapes import Shape
from app.billing.domain.usage import BY, as_csv, usage_row
from app.billing.store.usage import UsageFilter
from app.pacing.domain.throughput import quality
from app.pacing.store.lines import foretold
from app.platform.database import Database
from app.platform.domain.errors import Forbidden, Invalid
from app.platform.ports import Clock
from app.reporting.read_usage import ReadUsage

_DEFAULT_DAYS = 30
_DAY = 86400.0


class UsageQuery(Query):
    """Which usage, and how it is divided."""

    by: str = Field(
        "client,model", description=f"What it is divided by, separated by commas: {', '.join(BY)}."
    )
    first: date | None = Field(None, alias="from", description="The first day, UTC; 30 days ago.")
    last: date | None = Field(None, alias="to", description="The last day, UTC; today.")
    client: str | None = Field(None, description="Only this client's. Others' are for administrators alone.")
    format: Literal["json", "csv"] = Field("json", description="json, or csv with a heading.")


class UsageRow(Shape):
    """Usage in one currency. Money is in units of it, exactly, as text; null: no price is known."""

    day: str | None = None
    client: str | None = None
    model: str | None = None
    key: str | None = None
    account: str | None = None
    upstream_model: str | None = None
    tasks: int = Field(description="That succeeded.")
    calls: int = Field(description="Upstream calls that came to an end.")
    cache_hits: int = Field(description="Tasks answered from the cache.")
    coalesced: int = Field(description="Tasks answered by an identical task's call.")
    prompt_tokens: int
    cached_tokens: int = Field(description="Of the prompts, those that the upstream had cached.")
    completion_tokens: int
    reasoning_tokens: int = Field(description="Of the answers.")
    unpriced_calls: int = Field(description="That used tokens at a price nobody knows.")
    currency: str | None
    cost_micros: int | None = Field(description="In millionths of the currency, rounded half up.")
    cost: str | None
    saved_cache: str | None
    saved_coalescing: str | None
    saved_prompt_cache: str | None = Field(description="Against the price of prompts that are not cached.")
    saved_off_peak: str | None = Field(description="Against the same calls in peak hours.")


class Connections(Shape):
    """Connections opened to upstreams by the worker processes of the last day."""

    calls: int
    opened: int
    per_1000_calls: float | None


class UsageReport(Shape):
    """What was used, paid and saved; exact at one instant."""

    object: str
    by: list[str]
    data: list[UsageRow]
    connections: Connections | None = Field(description="For administrators; null for others.")


class UsageViews:
    """Parse, authenticate, call one service, render."""

    def __init__(self, database: Database, callers: Callers, clock: Clock) -> None:
        self._usage = ReadUsage(database)
        self._callers = callers
        self._clock = clock

    def operations(self) -> list[Operation]:
        """What is offered."""
        return [
            Operation(
                "GET",
                "/v1/usage",
                "What was used, paid and saved.",
                self.show,
                {200: ResponseDoc("The report.", UsageReport)},
                group="Usage",
                description="Sums of exact costs; currencies are kept apart. A client sees its own.",
                query=UsageQuery,
                refusals=(403,),
            )
        ]

    def show(self) -> ResponseReturnValue:
        """The report, as JSON or CSV."""
        caller = self._callers.current()
        query = read_query(UsageQuery)
        by = _divided(query.by)
        rows = [usage_row(row, by) for row in self._usage.report(self._wanted(query, caller, by))]
        if query.format == "csv":
            return Response(as_csv(rows, by), content_type="text/csv; charset=utf-8")
        return answer({"object": "usage", "by": by, "data": rows, "connections": self._wire(caller)})

    def _wanted(self, query: UsageQuery, caller: Caller, by: list[str]) -> UsageFilter:
        today = datetime.fromtimestamp(self._clock.now(), UTC).date()
        last = query.last or today
        first = query.first or min(last, today - timedelta(days=_DEFAULT_DAYS))
        if last < first:
            raise Invalid("to: lies before from", param="to", code="invalid_value")
        client = query.client if caller.is_admin else caller.client_id
        if query.client is not None and query.client != client:
            raise Forbidden("another client's usage is for administrators alone", param="client")
        return UsageFilter(first.isoformat(), last.isoformat(), client, tuple(BY[name] for name in by))

    def _wire(self, caller: Caller) -> dict[str, object] | None:
        if not caller.is_admin:
            return None
        wire = self._usage.wire(self._clock.now() - _DAY)
        return {"calls": wire.calls, "opened": wire.connections, "per_1000_calls": wire.per_thousand}


def _divided(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in BY:
            raise Invalid(f"by: there is no {name[:40]!r}; there are {', '.join(BY)}", param="by")
    return [name for name in BY if name in names]


OVER = 1_000  # tasks: the newest that succeeded


class EstimateQuality(Shape):
    """The starts estimated at submission, against the real ones, of your newest tasks that succeeded."""

    object: Literal["estimates"]
    tasks: int = Field(description=f"How many were looked at; the newest {OVER} at most.")
    unestimated: int = Field(description="Of these, those whose start nobody could estimate when they came.")
    median_error_seconds: float | None
    median_error_share: float | None = Field(
        description="Of the real wait; waits under a second count as one."
    )
    within_twice: float | None = Field(
        description="The share of estimates of half to twice the real wait; waits under a second count as one."
    )


class ForetoldViews:
    """Parse, authenticate, call one service, render."""

    def __init__(self, database: Database, callers: Callers) -> None:
        self._database = database
        self._callers = callers

    def operations(self) -> list[Operation]:
        """What is offered."""
        return [
            Operation(
                "GET",
                "/v1/estimates",
                "How good estimated starts were.",
                self.read,
                {200: ResponseDoc("Estimates against what came.", EstimateQuality)},
                group="Usage",
            )
        ]

    def read(self) -> ResponseReturnValue:
        """The quality of the caller's estimates."""
        caller = self._callers.current()
        found = quality(self._database.read(lambda conn: foretold(conn, caller.client_id, OVER)))
        return answer(
            {
                "object": "estimates",
                "tasks": found.tasks,
                "unestimated": found.unestimated,
                "median_error_seconds": found.median_error_seconds,
                "median_error_share": found.median_error_share,
                "within_twice": found.within_twice,
            }
        )
