"""What a call cost, and whether its answer is kept: decided between the verdict and the record."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import structlog

from app.billing.domain.pricing import PriceBook
from app.caching.domain.answer import AnswerCache, CachedAnswer, NoAnswers
from app.caching.domain.caching import may_keep
from app.platform.domain.json_text import Parse
from app.tasks.domain.attempt import AttemptEnd
from app.tasks.domain.task import Status
from app.upstreams.domain import parameter_fix

log = structlog.get_logger("penstock.cache")


@dataclass(frozen=True, slots=True)
class KeepAnswers:
    """The use case. May be used by many threads."""

    parse: Parse
    prices: PriceBook = field(default_factory=PriceBook)
    cache: AnswerCache = field(default_factory=NoAnswers)
    most_bytes: int = 1024 * 1024

    def priced(self, ending: AttemptEnd) -> AttemptEnd:
        """The ending with its cost, at the price in force when the call was sent; None stays unknown."""
        permit = ending.claimed.permit
        if not ending.called:
            return ending
        sent_at = ending.claimed.started_at
        cost = self.prices.cost(permit.upstream, permit.upstream_model, ending.usage, sent_at)
        return replace(ending, cost=cost)

    def keep(self, ending: AttemptEnd) -> None:
        """Keep the answer where its task asks for it and it is a whole one. Never raises."""
        try:
            self._keep(ending)
        except Exception as error:  # noqa: BLE001  # an answer that is not kept is recorded all the same
            log.warning("an answer was not kept", error=type(error).__name__)

    def _keep(self, ending: AttemptEnd) -> None:
        claimed, result = ending.claimed, ending.result
        if ending.status is not Status.SUCCEEDED or result is None:
            return
        if claimed.cache_key is None or claimed.cache_seconds is None:
            return
        encoded = result.encode()
        whole = may_keep(
            self.parse(encoded),
            simulated=ending.simulated,
            repaired=bool(parameter_fix.remembered(claimed.avoid)),
            size=len(encoded),
            most=self.most_bytes,
        )
        if whole:
            answer = CachedAnswer(result, ending.usage, ending.cost)
            self.cache.keep(claimed.cache_key, answer, claimed.cache_seconds)
