"""/v1/usage and /v1/estimates: what was used, paid and saved, and how good start estimates were."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal

from flask import Response
from flask.typing import ResponseReturnValue
from pydantic import Field

from app.access.domain.caller import Caller
from app.api.access_control import Callers
from app.api.body import Query, read_query
from app.api.openapi import Operation, ResponseDoc
from app.api.responses import answer
from app.billing.domain.usage import BY, NEWEST_CALLS, UsageFilter, as_csv, usage_row
from app.diagnosis.domain.percentiles import percentiles
from app.platform.database import Database
from app.platform.domain.errors import Forbidden, Invalid
from app.platform.ports import Clock
from app.reporting.read_overview import ReadUsage
from app.tasks.views import Shape

_DEFAULT_DAYS = 30
_DAY = 86400.0


class UsageQuery(Query):
    """Which usage to report, and how to group it."""

    by: str = Field("client,model", description=f"Grouping, separated by commas: {', '.join(BY)}.")
    first: date | None = Field(None, alias="from", description="First day, UTC; default: 30 days ago.")
    last: date | None = Field(None, alias="to", description="Last day, UTC; default: today.")
    client: str | None = Field(
        None, description="Only this client. Only administrators may name other clients."
    )
    format: Literal["json", "csv"] = Field("json", description="json, or csv with a header row.")


class UsageRow(Shape):
    """Usage in one currency. Amounts are exact decimal strings; null if no price is known."""

    day: str | None = None
    client: str | None = None
    model: str | None = None
    key: str | None = None
    account: str | None = None
    upstream_model: str | None = None
    tasks: Annotated[int, Field(description="Successful tasks.")]
    calls: Annotated[int, Field(description="Finished upstream calls.")]
    cache_hits: Annotated[int, Field(description="Tasks answered from the cache.")]
    coalesced: Annotated[int, Field(description="Tasks answered by the call of an identical task.")]
    prompt_tokens: int
    cached_tokens: Annotated[int, Field(description="Prompt tokens that the upstream had cached.")]
    completion_tokens: int
    reasoning_tokens: Annotated[int, Field(description="Completion tokens used for reasoning.")]
    unpriced_calls: Annotated[int, Field(description="Calls whose price is unknown.")]
    currency: str | None
    cost_micros: Annotated[int | None, Field(description="In millionths of the currency, rounded half up.")]
    cost: str | None
    saved_cache: str | None
    saved_coalescing: str | None
    saved_prompt_cache: Annotated[
        str | None, Field(description="Saved by upstream prompt caching, compared to the full prompt price.")
    ]
    saved_off_peak: Annotated[
        str | None, Field(description="Saved compared to the same calls in peak hours.")
    ]
    response_p50_seconds: Annotated[
        float | None,
        Field(
            description=f"Response time of successful upstream calls, among the newest {NEWEST_CALLS} calls of the "
            "service; null if there is none."
        ),
    ]
    response_p90_seconds: float | None
    response_p99_seconds: float | None


class Connections(Shape):
    """Connections that worker processes opened to upstreams in the last day."""

    calls: int
    opened: int
    per_1000_calls: float | None


class UsageReport(Shape):
    """Usage, cost and savings, consistent at one instant."""

    object: str
    by: list[str]
    data: list[UsageRow]
    connections: Annotated[Connections | None, Field(description="Only for administrators, otherwise null.")]


class UsageViews:
    """The /v1/usage operation."""

    def __init__(self, database: Database, callers: Callers, clock: Clock) -> None:
        self._usage = ReadUsage(database)
        self._callers = callers
        self._clock = clock

    def operations(self) -> list[Operation]:
        """The operations of these views."""
        return [
            Operation(
                "GET",
                "/v1/usage",
                "Report usage, cost and savings.",
                self.show,
                {200: ResponseDoc("The report.", UsageReport)},
                group="Usage",
                description="Costs are exact sums; currencies are not mixed. Clients see their own usage.",
                query=UsageQuery,
                refusals=(403,),
            )
        ]

    def show(self) -> ResponseReturnValue:
        """The report, as JSON or CSV."""
        caller = self._callers.current()
        query = read_query(UsageQuery)
        by = _grouping(query.by)
        wanted = self._wanted(query, caller, by)
        seconds = self._usage.response_seconds(wanted)
        rows: list[Any] = []
        for row in self._usage.report(wanted):
            took = seconds.get(tuple(row[name] for name in wanted.by))
            times = [round(one, 3) for one in percentiles(took)] if took else None
            rows.append(usage_row(row, by, times))
        if query.format == "csv":
            return Response(as_csv(rows, by), content_type="text/csv; charset=utf-8")
        return answer(UsageReport(object="usage", by=by, data=rows, connections=self._wire(caller)))

    def _wanted(self, query: UsageQuery, caller: Caller, by: list[str]) -> UsageFilter:
        today = datetime.fromtimestamp(self._clock.now(), UTC).date()
        last = query.last or today
        first = query.first or min(last, today - timedelta(days=_DEFAULT_DAYS))
        if last < first:
            raise Invalid("to: must not be before from", param="to", code="invalid_value")
        client = query.client if caller.is_admin else caller.client_id
        if query.client is not None and query.client != client:
            raise Forbidden("only administrators may see the usage of other clients", param="client")
        return UsageFilter(first.isoformat(), last.isoformat(), client, tuple(BY[name] for name in by))

    def _wire(self, caller: Caller) -> Connections | None:
        if not caller.is_admin:
            return None
        wire = self._usage.wire(self._clock.now() - _DAY)
        return Connections(calls=wire.calls, opened=wire.connections, per_1000_calls=wire.per_thousand)


def _grouping(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in BY:
            raise Invalid(f"by: unknown {name[:40]!r}; use {', '.join(BY)}", param="by")
    return [name for name in BY if name in names]


OVER = 1_000  # newest successful tasks


class EstimateQuality(Shape):
    """Start times estimated at submission compared to actual ones, for your newest successful tasks."""

    object: Literal["estimates"]
    tasks: Annotated[int, Field(description=f"Number of tasks compared, at most the newest {OVER}.")]
    unestimated: Annotated[int, Field(description="Number of these without an estimate at submission.")]
    median_error_seconds: float | None
    median_error_share: Annotated[
        float | None, Field(description="Relative to the actual wait; waits under one second count as one.")
    ]
    within_twice: Annotated[
        float | None,
        Field(
            description="Share of estimates between half and twice the actual wait; waits under one second "
            "count as one."
        ),
    ]


class EstimateViews:
    """The /v1/estimates operation."""

    def __init__(self, database: Database, callers: Callers) -> None:
        self._usage = ReadUsage(database)
        self._callers = callers

    def operations(self) -> list[Operation]:
        """The operations of these views."""
        return [
            Operation(
                "GET",
                "/v1/estimates",
                "Compare estimated and actual start times.",
                self.read,
                {200: ResponseDoc("The quality of the estimates.", EstimateQuality)},
                group="Usage",
            )
        ]

    def read(self) -> ResponseReturnValue:
        """The quality of estimates for the caller's tasks."""
        caller = self._callers.current()
        found = self._usage.estimate_quality(caller.client_id, OVER)
        return answer(
            EstimateQuality(
                object="estimates",
                tasks=found.tasks,
                unestimated=found.unestimated,
                median_error_seconds=found.median_error_seconds,
                median_error_share=found.median_error_share,
                within_twice=found.within_twice,
            )
        )
