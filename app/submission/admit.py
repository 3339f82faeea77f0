"""Decide whether a task is accepted: policies first, then the client's number of waiting tasks, then its budget.

Policies are applied when a task is drafted. Limits are counted in the transaction that stores it, so that two
concurrent submissions cannot both take the last of a budget.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import orjson
import structlog
from sqlalchemy import Connection

from app.access.authenticate import current
from app.access.domain.caller import NO_LIMITS, ClientLimits, ClientRow
from app.access.domain.policy import CallFacts
from app.access.manage_clients import read_limits
from app.access.manage_policies import PolicyBook
from app.access.store import clients
from app.billing.domain.budget import Spent, ceilings, exceeded, fitting, total
from app.billing.store import budgets
from app.pacing.domain.tokens import DEFAULT_ANSWER, LARGEST, OPEN_ANSWER, answer_limit, choices
from app.platform.database import Database
from app.platform.domain.errors import Forbidden, OverBudget, OverLimit, Rejected
from app.platform.ports import Clock
from app.tasks.domain.rows import NewTask
from app.tasks.domain.task import Hold

log = structlog.get_logger("penstock.access")

CACHE_SECONDS = 5.0  # until changed limits apply in every process


@dataclass(frozen=True, slots=True)
class ModelLocations:
    """The upstreams and regions that may serve a model."""

    upstreams: frozenset[str] = frozenset()
    regions: frozenset[str] = frozenset()


Ceiling = Callable[[str, int, float], tuple[int, str] | None]
"""(model, tokens, instant) -> the most they can cost, in pico-units, and the currency. None: unknown."""


@dataclass(frozen=True, slots=True)
class _AdmissionCache:
    limits: ClientLimits = NO_LIMITS
    team: str = ""


_NEVER: tuple[float, dict[str, _AdmissionCache]] = (-1e9, {})


def _known(row: ClientRow) -> _AdmissionCache:
    return _AdmissionCache(read_limits(row.settings), row.team or "")


class LimitsBook:
    """Clients' limits and teams, read again every few seconds.

    Used by all request threads. The lock lets one at a time read again; the dictionary is replaced whole, and
    only grows in between.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._known = _NEVER
        self._lock = threading.Lock()

    def of(self, client_id: str) -> ClientLimits:
        """A client's limits. Raises DatabaseUnreachable: budgets fail closed."""
        return self._find(client_id).limits

    def team_of(self, client_id: str) -> str:
        """A client's team. Raises DatabaseUnreachable."""
        return self._find(client_id).team

    def forget(self) -> None:
        """Drop the cache: this process has changed a client."""
        with self._lock:  # a read in progress may have begun before the change
            self._known = _NEVER

    def _find(self, client_id: str) -> _AdmissionCache:
        """A client that is not cached may be new: it is looked up once."""
        known = self._all()
        if client_id not in known:
            row = self._database.read(lambda conn: clients.get_client(conn, client_id))
            if row is None:
                return _AdmissionCache()
            known[client_id] = _known(row)
        return known[client_id]

    def _all(self) -> dict[str, _AdmissionCache]:
        (until, known), now = self._known, self._clock.monotonic()
        if not now < until <= now + CACHE_SECONDS:
            with self._lock:
                known = {row.id: _known(row) for row in self._database.read(clients.list_clients)}
                self._known = (self._clock.monotonic() + CACHE_SECONDS, known)
        return known


class Admission:
    """Accepts or refuses tasks. One for each process, used by all request threads; holds no state of its own."""

    def __init__(
        self,
        policies: PolicyBook,
        limits: LimitsBook,
        clock: Clock,
        places: Mapping[str, ModelLocations],
        ceiling: Ceiling,
        longest: Mapping[str, int] | None = None,
    ) -> None:
        """`longest`: the maximum tokens of an answer, by model; `OPEN_ANSWER` for others."""
        self._longest = longest or {}
        self._policies = policies
        self._limits = limits
        self._clock = clock
        self._places = places
        self._ceiling = ceiling

    def limits_of(self, client_id: str) -> ClientLimits:
        """A client's limits, with its defaults. Raises DatabaseUnreachable."""
        return self._limits.of(client_id)

    def draft(self, row: NewTask) -> NewTask:
        """Apply policies, and note what the task may use of its client's budget.

        If the client prefers waiting to a refusal, the rows of its batches wait for the budget from the start.

        Raises Forbidden, OverBudget, DatabaseUnreachable.
        """
        if self._policies.decisive:
            self._check_policy(row)
        limits = self._limits.of(row.client_id)
        if not limits.has_budget:
            return row
        tokens = self._max_budget_tokens(row)
        picos = self._picos(row, limits, tokens) if limits.has_money else 0
        row = replace(row, reserved_tokens=tokens, reserved_picos=picos)
        if row.batch_id is not None and limits.over_budget == "wait":
            return replace(row, hold=Hold.BUDGET)
        return replace(row, reserved_at=row.created_at)

    def forget(self) -> None:
        """This process has changed a client: apply its new limits from its next request on."""
        self._limits.forget()

    def counts(self, client_id: str) -> bool:
        """Whether this client has limits that are counted when tasks are stored. Raises DatabaseUnreachable."""
        limits = self._limits.of(client_id)
        return limits.most_waiting is not None or limits.has_budget

    def take(self, conn: Connection, rows: Sequence[NewTask]) -> dict[str, NewTask | Rejected]:
        """Count single tasks in the transaction that stores them. Tasks not returned are accepted unchanged."""
        found: dict[str, NewTask | Rejected] = {}
        for client_id in sorted({row.client_id for row in rows}):
            mine = [row for row in rows if row.client_id == client_id]
            limits = self._limits.of(client_id)
            if limits.most_waiting is not None:
                found |= _over_waiting(conn, client_id, limits.most_waiting, mine)
            left = [row for row in mine if row.id not in found]
            if limits.has_budget and left:
                found |= _reserve(conn, client_id, limits, left)
        return found

    def take_batch(self, conn: Connection, client_id: str, wanted: Spent, at: float) -> None:
        """Count a whole batch, whose rows are stored already. Raises OverBudget, OverLimit."""
        limits = self._limits.of(client_id)
        most = limits.most_waiting
        if most is not None and _count_waiting(conn, client_id, most) > most:
            raise _over_limit(most)
        if not limits.has_budget or limits.over_budget == "wait":
            return
        ceiling = ceilings(limits, at)
        spent = budgets.lock_spent(conn, client_id, ceiling)
        if over := exceeded(ceiling, spent, wanted):
            raise _over_budget(over)
        budgets.add_spent(conn, client_id, at, wanted)

    def release(self, conn: Connection, client_id: str, now: float, most: int) -> int:
        """Release tasks that wait for a budget, as many as fit; returns how many."""
        limits = self._limits.of(client_id)
        ceiling = ceilings(limits, now)
        waiting, batches = budgets.lock_for_release(conn, client_id, most)
        spent = budgets.lock_spent(conn, client_id, ceiling) if ceiling else {}
        chosen = waiting[: fitting(ceiling, spent, [item.amount for item in waiting])]
        if chosen:
            budgets.add_spent(conn, client_id, now, total(item.amount for item in chosen))
            budgets.release(conn, chosen, batches, now)
        return len(chosen)

    def _check_policy(self, row: NewTask) -> None:
        calling = current.get()
        caller = calling.caller if calling and calling.caller.client_id == row.client_id else None
        places = self._places.get(row.model, ModelLocations())
        facts = CallFacts(
            at=self._clock.now(),
            action="tasks:write",
            client=row.client_id,
            team=caller.team if caller else self._limits.team_of(row.client_id),
            user=caller.user if caller else "",
            key=caller.key_id if caller else "",
            address=calling.address if calling else None,
            zones=calling.zones if calling else frozenset(),
            model=row.model,
            upstreams=places.upstreams,
            regions=places.regions,
            max_tokens=_max_tokens(row.request),
        )
        decision = self._policies.decide(facts)
        if not decision.allowed:
            log.warning("refused by policy", rule=decision.rule, client=row.client_id, model=row.model)
            raise Forbidden(
                f"this key may not run model {row.model!r} (denied by a policy for this time or address)",
                param="model",
                code="denied_by_policy",
            )

    def _max_budget_tokens(self, row: NewTask) -> int:
        """Its estimate; if the request sets no length, with the longest answer that the model gives."""
        body = orjson.loads(row.request)
        if answer_limit(body):
            return row.estimate
        longest = self._longest.get(row.model, OPEN_ANSWER)
        return min(LARGEST, max(1, row.estimate + choices(body) * (longest - DEFAULT_ANSWER)))

    def _picos(self, row: NewTask, limits: ClientLimits, tokens: int) -> int:
        most = self._ceiling(row.model, tokens, row.created_at)
        if most is None or most[1] != limits.currency:
            raise OverBudget(
                f"the price of model {row.model!r} in {limits.currency} is unknown, so a budget cannot be held; "
                "ask the administrator to configure a price",
                param="model",
                code="price_unknown",
            )
        return most[0]


def _count_waiting(conn: Connection, client_id: str, most: int) -> int:
    """Count under a lock on the client: concurrent transactions would not see each other's tasks."""
    clients.lock_client(conn, client_id)
    return budgets.count_waiting(conn, client_id, most)


def _over_waiting(
    conn: Connection, client_id: str, most: int, rows: Sequence[NewTask]
) -> dict[str, NewTask | Rejected]:
    room = max(0, most - _count_waiting(conn, client_id, most))
    return {row.id: _over_limit(most) for row in rows[room:]}


def _reserve(
    conn: Connection, client_id: str, limits: ClientLimits, rows: Sequence[NewTask]
) -> dict[str, NewTask | Rejected]:
    """Reserve for one row after the other; those that do not fit are refused or wait."""
    at = rows[0].created_at
    ceiling, sum_, found = ceilings(limits, at), Spent(), dict[str, NewTask | Rejected]()
    spent = budgets.lock_spent(conn, client_id, ceiling)
    for row in rows:
        wanted = Spent(row.reserved_tokens or 0, row.reserved_picos or 0)
        over = exceeded(ceiling, spent, sum_ + wanted)
        if over is None:
            sum_ += wanted
            found[row.id] = replace(row, reserved_at=at)
        elif limits.over_budget == "wait":
            found[row.id] = replace(row, reserved_at=None, hold=Hold.BUDGET, fed_at=None)
        else:
            found[row.id] = _over_budget(over)
    if sum_ != Spent():
        budgets.add_spent(conn, client_id, at, sum_)
    return found


def _over_budget(what: str) -> OverBudget:
    return OverBudget(f"over budget: not enough {what} left", code="over_budget")


def _over_limit(most: int) -> OverLimit:
    return OverLimit(
        f"more than {most} tasks would wait; retry after some have ended", code="too_many_waiting"
    )


def _max_tokens(request: str) -> int | None:
    return answer_limit(orjson.loads(request)) or None
