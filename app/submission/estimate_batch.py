"""Say what a batch would come to, without storing anything of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from app.pacing.domain.throughput import Demand, seconds_for
from app.platform.domain.errors import Invalid
from app.platform.ports import Clock
from app.settings.domain.routing import Topology
from app.submission.admit import Ceiling
from app.submission.check_request import Place, SubmissionRules, draft_task
from app.submission.domain.request import BatchRequest, TaskRequest
from app.submission.submit_batch import MOST_TASKS


@dataclass(frozen=True, slots=True)
class Estimate:
    """What it would come to. Money is the most it can cost, in pico-units; None where nobody knows."""

    requests: int
    tokens: int
    cost_picos: int | None
    currency: str | None
    seconds: float | None
    finished_at: float | None  # Unix seconds, if it began now and nothing else ran
    models: dict[str, Demand]


class EstimateBatch:
    """The use case."""

    def __init__(self, rules: SubmissionRules, topology: Topology, ceiling: Ceiling, clock: Clock) -> None:
        self._rules = rules
        self._topology = topology
        self._ceiling = ceiling
        self._clock = clock

    def estimate(self, client_id: str, options: BatchRequest, requests: Iterable[TaskRequest]) -> Estimate:
        """Check every request as a submission would, and add up. Raises Invalid."""
        now = self._clock.now()
        models: dict[str, Demand] = {}
        costs: list[tuple[int, str] | None] = []
        names: set[str] = set()
        for index, request in enumerate(requests):
            _check(request, index, names)
            place = Place("", index, options, now + options.expires_in)
            row = draft_task(request, client_id, self._rules, now, place)
            models[row.model] = models.get(row.model, Demand()) + Demand(1, row.estimate)
            costs.append(self._ceiling(row.model, row.estimate, now))
        return self._estimate(models, costs, now)

    def _estimate(
        self, models: dict[str, Demand], costs: list[tuple[int, str] | None], now: float
    ) -> Estimate:
        known = [cost for cost in costs if cost is not None]
        currencies = {currency for _, currency in known}
        one_sum = len(known) == len(costs) and len(currencies) == 1
        seconds = seconds_for(self._topology, models)
        return Estimate(
            requests=sum(demand.requests for demand in models.values()),
            tokens=sum(demand.tokens for demand in models.values()),
            cost_picos=sum(picos for picos, _ in known) if one_sum else None,
            currency=currencies.pop() if one_sum else None,
            seconds=seconds,
            finished_at=None if seconds is None else now + seconds,
            models=models,
        )


def _check(request: TaskRequest, index: int, names: set[str]) -> None:
    """What holds between the requests of a batch."""
    if index >= MOST_TASKS:
        raise Invalid(f"requests: more than {MOST_TASKS} in one batch", param="requests", status=413)
    if request.custom_id in names:
        param = f"requests[{index}].custom_id"
        raise Invalid(f"{param}: an earlier request has it already", param=param, code="duplicate_custom_id")
    if request.custom_id is not None:
        names.add(request.custom_id)
