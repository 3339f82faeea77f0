"""What clients have used and reserved of their budgets: one row per client and period, locked by admission."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, case, delete, func, literal_column, select, text, update

from app.access.store.access_tables import budget_use
from app.billing.domain.budget import Spent, periods
from app.platform.dialects import insert_or
from app.platform.domain.money import NO_SUM
from app.tasks.domain.task import Hold, Status
from app.tasks.store.locks import LockedBatches, lock_batches
from app.tasks.store.progress import admit_next
from app.tasks.store.tables import INTAKE, OVER_BUDGET, SETTLING, batch, task


@dataclass(frozen=True, slots=True)
class BudgetWaiter:
    """A task that waits for its client's budget."""

    seq: int
    batch_id: str | None
    amount: Spent


def lock_spent(conn: Connection, client_id: str, names: Iterable[str]) -> dict[str, Spent]:
    """What a client has used and reserved in these periods, locked until this transaction ends."""
    ordered = sorted(names)
    rows = [{"client_id": client_id, "period": name} for name in ordered]
    conn.execute(insert_or(conn, budget_use).on_conflict_do_nothing(), rows)
    mine = budget_use.c.period.in_(ordered) & (budget_use.c.client_id == client_id)
    found = conn.execute(select(budget_use).where(mine).order_by(budget_use.c.period).with_for_update())
    return {row.period: Spent(row.tokens, row.picos) for row in found}


def add_spent(conn: Connection, client_id: str, at: float, more: Spent) -> None:
    """Add to the day and the month of an instant, always in the same order."""
    for name in sorted(periods(at)):
        insert = insert_or(conn, budget_use).values(
            client_id=client_id, period=name, tokens=more.tokens, picos=more.picos
        )
        added = {
            "tokens": budget_use.c.tokens + insert.excluded.tokens,
            "picos": budget_use.c.picos + insert.excluded.picos,
        }
        conn.execute(insert.on_conflict_do_update(index_elements=["client_id", "period"], set_=added))


def count_waiting(conn: Connection, client_id: str, most: int) -> int:
    """How many of a client's tasks are queued, counted up to `most` + 1."""
    mine = (task.c.client_id == client_id) & (task.c.status == Status.QUEUED)
    some = select(literal_column("1")).select_from(task).where(mine).limit(most + 1).subquery()
    return int(conn.execute(select(func.count()).select_from(some)).scalar_one())


def settle_ended(conn: Connection, limit: int) -> int:
    """Replace the reservations of ended tasks by what they used; returns how many. Call until fewer than `limit`.

    Unknown use (at an unknown price) counts as much as was reserved: budgets fail closed.
    """
    coming_in = select(batch.c.id).where(text(f"batch.{INTAKE}"))
    found = select(*_RESERVED).where(text(SETTLING))
    found = found.where(task.c.batch_id.is_(None) | task.c.batch_id.not_in(coming_in))
    rows = conn.execute(found.order_by(task.c.seq).limit(limit).with_for_update(of=task)).all()
    if not rows:
        return 0
    sums: dict[tuple[str, str], Spent] = defaultdict(Spent)
    for row in rows:
        for name in periods(row.reserved_at):
            sums[row.client_id, name] += _used(row) - Spent(row.reserved_tokens or 0, row.reserved_picos or 0)
    for (client_id, name), more in sorted(sums.items()):
        mine = (budget_use.c.client_id == client_id) & (budget_use.c.period == name)
        added = {"tokens": budget_use.c.tokens + more.tokens, "picos": budget_use.c.picos + more.picos}
        conn.execute(update(budget_use).where(mine).values(added))
    settled = task.c.seq.in_([row.seq for row in rows])
    conn.execute(update(task).where(settled).values(reserved_at=None))
    return len(rows)


def clients_waiting(conn: Connection) -> list[str]:
    """Clients with tasks that wait for their budget."""
    return list(conn.execute(select(task.c.client_id).where(text(OVER_BUDGET)).distinct()).scalars())


def lock_for_release(
    conn: Connection, client_id: str, limit: int
) -> tuple[list[BudgetWaiter], LockedBatches]:
    """A client's oldest tasks that wait for its budget, and their batches, locked until this transaction ends.

    In the order of locks.py: rows found without a lock are read again once their batch is locked. Batches still being
    submitted are left out.
    """
    coming_in = select(batch.c.id).where(text(f"batch.{INTAKE}"))
    found = select(task.c.seq, task.c.batch_id).where(task.c.client_id == client_id, text(OVER_BUDGET))
    found = found.where(task.c.batch_id.is_(None) | task.c.batch_id.not_in(coming_in))
    oldest = conn.execute(found.order_by(task.c.seq).limit(limit)).all()
    batches = lock_batches(conn, (row.batch_id for row in oldest))
    columns = (task.c.seq, task.c.batch_id, task.c.reserved_tokens, task.c.reserved_picos)
    still = select(*columns).where(task.c.seq.in_([row.seq for row in oldest]), text(OVER_BUDGET))
    rows = conn.execute(still.order_by(task.c.seq).with_for_update(of=task))
    waiters = [
        BudgetWaiter(r.seq, r.batch_id, Spent(r.reserved_tokens or 0, r.reserved_picos or 0)) for r in rows
    ]
    return waiters, batches


def release(conn: Connection, chosen: Sequence[BudgetWaiter], batches: LockedBatches, now: float) -> None:
    """Release tasks whose budget was reserved. Those of a batch with a `batch_size` still wait for a slot.

    All of them and their batches were locked by `lock_for_release`.
    """
    sized = _sized(batches, {item.batch_id for item in chosen})
    hold = case(
        (task.c.batch_id.in_(sorted(sized)), Hold.BATCH.value),
        (task.c.available_at > now, Hold.UNTIL.value),
        (task.c.cache_key.is_not(None), Hold.JOINING.value),
        else_=Hold.NONE.value,
    )
    these = task.c.seq.in_([item.seq for item in chosen])
    conn.execute(update(task).where(these, text(OVER_BUDGET)).values(hold=hold, reserved_at=now))
    for batch_id, size in sorted(sized.items()):
        admit_next(conn, batch_id, max(0, size - _in_flight(conn, batch_id)), now)


def forget_periods(conn: Connection, before: str) -> int:
    """Delete periods that end before the month `before`, such as 2026-09."""
    return conn.execute(delete(budget_use).where(budget_use.c.period < before)).rowcount


def _sized(batches: LockedBatches, ids: Collection[str | None]) -> Mapping[str, int]:
    return {
        name: row.batch_size for name, row in batches.items() if name in ids and row.batch_size is not None
    }


def _in_flight(conn: Connection, batch_id: str) -> int:
    held = (Hold.BATCH.value, Hold.BUDGET.value)
    waits = (task.c.status == Status.QUEUED) & task.c.hold.not_in(held)
    mine = (task.c.batch_id == batch_id) & (waits | (task.c.status == Status.RUNNING))
    return int(conn.execute(select(func.count()).select_from(task).where(mine)).scalar_one())


def _used(row: Any) -> Spent:
    reserved = Spent(row.reserved_tokens or 0, row.reserved_picos or 0)
    counted = row.prompt_tokens is not None and row.completion_tokens is not None
    tokens = row.prompt_tokens + row.completion_tokens if counted else 0
    if row.cached or row.coalesced:
        return Spent(0, 0)  # no call was made for it
    if row.currency == NO_SUM or (counted and row.cost_picos is None):
        return Spent(tokens, reserved.picos)
    return Spent(tokens, row.cost_picos or 0)


_RESERVED = (
    task.c.seq,
    task.c.client_id,
    task.c.reserved_tokens,
    task.c.reserved_picos,
    task.c.reserved_at,
    task.c.prompt_tokens,
    task.c.completion_tokens,
    task.c.cost_picos,
    task.c.currency,
    task.c.cached,
    task.c.coalesced,
)
