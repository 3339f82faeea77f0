"""Fill the cache with likely prompts: at low priority, at a later time if given, within a budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import orjson
from sqlalchemy import Connection, select

from app.caching.domain.caching import CacheParams, Mode, cache_key
from app.pacing.domain.tokens import LARGEST, OPEN_ANSWER, estimate
from app.platform.database import Database
from app.platform.domain.errors import Invalid
from app.platform.ports import Clock
from app.submission.admit import Ceiling
from app.submission.check_request import SubmissionRules, check_model
from app.submission.domain.request import TaskRequest
from app.submission.submit_task import SubmitTask
from app.tasks.domain.task import Priority
from app.tasks.store.tables import task, task_content


@dataclass(frozen=True, slots=True)
class FrequentRequest:
    """A request and how often it came."""

    model: str
    request: str  # JSON text, without `model`
    times: int


def most_asked(conn: Connection, client_id: str, since: float, limit: int) -> list[FrequentRequest]:
    """The requests of a client that came at least twice since an instant, the most frequent first, whether or not they
    used the cache.

    Looks at the newest 10,000. Requests whose content was erased are omitted, and those of the shared scope.
    """
    mine = (task.c.client_id == client_id) & (task.c.created_at >= since)
    own = task.c.cache_key.is_(None) | task.c.cache_key.startswith(f"client:{client_id}:", autoescape=True)
    rows = select(task.c.model, task_content.c.request).join(task_content, task_content.c.seq == task.c.seq)
    newest = rows.where(mine, own).order_by(task.c.seq.desc()).limit(_NEWEST)
    times: Counter[str] = Counter()
    found: dict[str, tuple[str, str]] = {}
    for row in conn.execute(newest):
        if row.request:
            key = cache_key("", row.model, "", orjson.loads(row.request))
            times[key] += 1
            found.setdefault(key, (row.model, row.request))
    often = [(key, count) for key, count in times.most_common(limit) if count > 1]
    return [FrequentRequest(*found[key], count) for key, count in often]


_NEWEST = 10_000


SINCE_SECONDS = 7 * 86400.0  # how far back to look for frequent prompts


@dataclass(frozen=True, slots=True)
class Warmed:
    """What was submitted. `picos`: the most it can cost, in pico-units of `currency`."""

    task_ids: Sequence[str]
    left_out: int  # beyond the budget
    picos: int
    currency: str | None


class WarmCache:
    """The use case."""

    def __init__(
        self,
        database: Database,
        submit: SubmitTask,
        rules: SubmissionRules,
        ceiling: Ceiling,
        clock: Clock,
        longest: Mapping[str, int] | None = None,
    ) -> None:
        """`longest`: the maximum tokens of an answer, by model; `OPEN_ANSWER` for others."""
        self._longest = longest or {}
        self._database = database
        self._submit = submit
        self._rules = rules
        self._ceiling = ceiling
        self._clock = clock

    def most_asked(self, client_id: str, limit: int) -> list[TaskRequest]:
        """A client's most frequent prompts of the last week. Raises DatabaseUnreachable."""
        since = self._clock.now() - SINCE_SECONDS
        return [
            _request(asked)
            for asked in self._database.read(lambda conn: most_asked(conn, client_id, since, limit))
        ]

    def warm(
        self, client_id: str, requests: Sequence[TaskRequest], run_at: float | None, budget_picos: int
    ) -> Warmed:
        """Submit requests in order, as long as together they cannot cost more than the budget.

        Cached prompts cost nothing and are not run again. Raises Invalid (also for an unknown price, with which no
        budget can be held), and what submissions raise.
        """
        priced = [(request, self._most(request)) for request in requests]
        currencies = {currency for _, (_, currency) in priced}
        if len(currencies) > 1:
            raise Invalid(
                "the models are priced in several currencies; warm one of them at a time", param="model"
            )
        spent, ids = 0, []
        for request, (picos, _) in priced:
            if spent + picos > budget_picos:
                break
            spent += picos
            ids.append(self._submit.submit(client_id, _warming_request(request, run_at)).task_id)
        return Warmed(ids, len(requests) - len(ids), spent, next(iter(currencies), None))

    def _most(self, request: TaskRequest) -> tuple[int, str]:
        model = check_model(request.model, self._rules)
        longest = self._longest.get(model, OPEN_ANSWER)
        tokens = min(LARGEST, estimate(request.messages, request.parameters, longest, self._rules.per_media))
        most = self._ceiling(model, tokens, self._clock.now())
        if most is None:
            raise Invalid(
                f"the price of {model!r} is unknown, so no budget can be held; the administrator can add a [[price]] "
                'for its upstream and model to the configuration (miss = "0", output = "0" for a model of your own)',
                param="model",
                code="price_unknown",
            )
        return most


def _warming_request(request: TaskRequest, run_at: float | None) -> TaskRequest:
    cache = CacheParams(ttl=request.cache.ttl if request.cache else None, mode=Mode.WRITE)
    return replace(request, priority=Priority.LOW, run_at=run_at, callback_url=None, cache=cache)


def _request(asked: FrequentRequest) -> TaskRequest:
    body: Mapping[str, object] = orjson.loads(asked.request)
    parameters = {name: value for name, value in body.items() if name != "messages"}
    messages = body.get("messages")
    return TaskRequest(
        messages=messages if isinstance(messages, list) else [], model=asked.model, parameters=parameters
    )
