"""/v1/cache: its hit rates, clearing it, and filling it with likely prompts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Self

from flask.typing import ResponseReturnValue
from pydantic import Field, model_validator

from app.access.domain.caller import Caller
from app.api.access_control import Callers
from app.api.body import Query, read_model, read_query
from app.api.openapi import Operation, ResponseDoc
from app.api.responses import answer
from app.billing.domain.calendar import Calendar
from app.billing.domain.usage import UsageFilter
from app.caching.domain.caching import AnswerCache, client_scope
from app.platform.domain.errors import Forbidden, Unreachable
from app.platform.domain.money import PICOS_PER_UNIT, amount
from app.platform.ports import Clock
from app.reporting.read_overview import ReadUsage
from app.settings.cost_models import CacheSettings
from app.submission.bodies import Body, Instant, TaskBody, refuse
from app.submission.warm_cache import WarmCache
from app.tasks.views import Shape

_MOST = 1_000
_SMALL = 10_000  # bytes of a body that only names a client


class WarmBody(Body):
    """Exactly one of `requests` and `top`."""

    requests: Annotated[list[TaskBody], Field(fail_fast=True, min_length=1, max_length=_MOST)] | None = Field(
        None, description="Requests to cache, most likely first."
    )
    top: int | None = Field(
        None, ge=1, le=_MOST, description="Number of your most frequent prompts of the last week to cache."
    )
    budget: str = Field(
        pattern=r"^\d{1,6}(\.\d{1,12})?$",
        description="Maximum cost, in the currency of the models' prices, such as 0.50.",
    )
    run_at: Instant | None = Field(None, description="Earliest start.")
    off_peak: bool = Field(False, description="Avoid the upstream's peak hours.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.requests is None) == (self.top is None):
            refuse("give exactly one of `requests` and `top`", field="requests", code="missing_field")
        return self


class Warming(Shape):
    """What was submitted."""

    object: str
    task_ids: list[str]
    left_out: Annotated[int, Field(description="Number of requests that did not fit into the budget.")]
    ceiling: Annotated[str, Field(description="Maximum cost, exact.")]
    currency: str | None


class CacheQuery(Query):
    """What a report on the cache covers."""

    client: str | None = Field(
        None, description="Only this client. Only administrators may name other clients."
    )
    days: int = Field(7, ge=1, le=366, description="Number of days, today included.")


class CacheHits(Shape):
    """What the cache did for one client and model. Tasks are successful ones."""

    client: str
    model: str
    tasks: int
    cache_hits: Annotated[int, Field(description="Answered from the cache.")]
    coalesced: Annotated[int, Field(description="Answered by the call of an identical task.")]
    hit_rate: Annotated[float, Field(description="Share of the tasks answered from the cache.")]
    saved: Annotated[str | None, Field(description="Saved cost, exact; null: price unknown.")]
    currency: str | None


class CacheReport(Shape):
    """The cache and its hit rates."""

    object: str
    enabled: bool
    usage: Annotated[str, Field(description="Which requests use it by default: request, always or off.")]
    eviction: Annotated[str, Field(description="Who makes room: lru or lfu.")]
    max_entries: int
    entries: Annotated[
        int | None, Field(description="Answers that it holds. For administrators; otherwise null.")
    ]
    data: list[CacheHits]


class ClearBody(Body):
    """Whose answers to remove."""

    client: str | None = Field(
        None, description="Only this client's. Administrators: left out, all; others: only their own."
    )


class Cleared(Shape):
    """How many answers were removed."""

    object: str
    removed: int


class CacheViews:
    """The /v1/cache operations."""

    def __init__(
        self, usage: ReadUsage, answers: AnswerCache, settings: CacheSettings, callers: Callers, clock: Clock
    ) -> None:
        self._usage = usage
        self._answers = answers
        self._settings = settings
        self._callers = callers
        self._clock = clock

    def operations(self) -> list[Operation]:
        """The operations of these views."""
        return [
            Operation(
                "GET",
                "/v1/cache",
                "Report the cache's hit rates.",
                self.show,
                {200: ResponseDoc("The report.", CacheReport)},
                group="Usage",
                query=CacheQuery,
                refusals=(403,),
            ),
            Operation(
                "POST",
                "/v1/cache/clear",
                "Remove cached answers.",
                self.clear,
                {200: ResponseDoc("They are gone.", Cleared)},
                group="Usage",
                body=ClearBody,
                refusals=(403,),
            ),
        ]

    def show(self) -> ResponseReturnValue:
        """Its rules, how many answers it holds, and hit rates by client and model."""
        caller = self._callers.current()
        query = read_query(CacheQuery)
        last = datetime.fromtimestamp(self._clock.now(), UTC).date()
        first = last - timedelta(days=query.days - 1)
        client = self._whose(caller, query.client)
        wanted = UsageFilter(first.isoformat(), last.isoformat(), client, ("client_id", "model"))
        cache = self._settings
        return answer(
            CacheReport(
                object="cache",
                enabled=cache.enabled,
                usage=cache.usage,
                eviction=cache.eviction,
                max_entries=cache.entries,
                entries=self._answers.count() if caller.is_admin else None,
                data=[_hits(row) for row in self._usage.report(wanted) if row["tasks"]],
            )
        )

    def clear(self) -> ResponseReturnValue:
        """Remove one client's answers, or all."""
        caller = self._callers.current()
        client = self._whose(caller, read_model(ClearBody, _SMALL).client)
        removed = self._answers.clear(None if client is None else client_scope(client))
        if removed is None:
            raise Unreachable("the cache cannot be reached")
        return answer(Cleared(object="cache.cleared", removed=removed))

    def _whose(self, caller: Caller, client: str | None) -> str | None:
        """The client meant; None: all of them."""
        if caller.is_admin:
            return client
        if client not in (None, caller.client_id):
            raise Forbidden("only administrators may name other clients", param="client")
        return caller.client_id


def _hits(row: Mapping[str, Any]) -> CacheHits:
    currency = row["currency"] or None
    return CacheHits(
        client=row["client_id"],
        model=row["model"],
        tasks=row["tasks"],
        cache_hits=row["cache_hits"],
        coalesced=row["coalesced"],
        hit_rate=round(row["cache_hits"] / row["tasks"], 4),
        saved=amount(row["saved_cache"]) if currency else None,
        currency=currency,
    )


class WarmViews:
    """The /v1/cache/warm operation."""

    def __init__(
        self, warm: WarmCache, callers: Callers, peaks: Calendar | None, clock: Clock, most: int
    ) -> None:
        """`peaks`: the hours that `off_peak` avoids; `most`: bytes of one body."""
        self._warm = warm
        self._callers = callers
        self._peaks = peaks
        self._clock = clock
        self._most = most

    def operations(self) -> list[Operation]:
        """The operations of these views."""
        return [
            Operation(
                "POST",
                "/v1/cache/warm",
                "Fill the cache with likely prompts.",
                self.submit,
                {202: ResponseDoc("Submitted at low priority, within the budget.", Warming)},
                group="Usage",
                body=WarmBody,
                refusals=(402, 403, 413),
            )
        ]

    def submit(self) -> ResponseReturnValue:
        """202 with what was submitted."""
        caller = self._callers.current()
        body = read_model(WarmBody, self._most)
        requests = (
            [item.request() for item in body.requests]
            if body.requests is not None
            else self._warm.most_asked(caller.client_id, body.top or 1)
        )
        budget = int(Decimal(body.budget) * PICOS_PER_UNIT)
        warmed = self._warm.warm(caller.client_id, requests, self._run_at(body), budget)
        return answer(
            Warming(
                object="cache.warming",
                task_ids=list(warmed.task_ids),
                left_out=warmed.left_out,
                ceiling=amount(warmed.picos),
                currency=warmed.currency,
            ),
            202,
        )

    def _run_at(self, body: WarmBody) -> float | None:
        if not body.off_peak or self._peaks is None:
            return body.run_at
        now = self._clock.now()
        begins = self._peaks.off_peak_from(max(now, body.run_at or now))
        return begins if begins > now else body.run_at
