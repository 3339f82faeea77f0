"""Identical tasks: who leads, who follows, the statements that change it; tasks that end with an existing answer.

A joining transaction locks the key (`lock_keys`), then the leader's row; one that ends the leader locks its row. So a
task either follows a leader that has not ended, or finds none. SQLite has one writer at a time and needs neither.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from zlib import crc32

from sqlalchemy import (
    BigInteger,
    Boolean,
    Connection,
    Double,
    Integer,
    Row,
    Select,
    Text,
    Update,
    bindparam,
    case,
    false,
    func,
    null,
    select,
    text,
    update,
)

from app.billing.domain.usage import Heading, UsageEntry, UsageFigures, day_of
from app.billing.store.usage import write_usage
from app.caching.domain.caching import CachedAnswer, FallbackKind
from app.caching.domain.coalescing import Participant
from app.platform.dialects import ROWS, encode, hold_numbers, recordset
from app.platform.domain.money import NO_SUM
from app.tasks.domain.attempt import AttemptEnd
from app.tasks.domain.task import Hold, Status
from app.tasks.store.locks import has_status, lock_in_order
from app.tasks.store.tables import FOLLOWING, LEADING, task, task_content

_SPACE = 7_221_046  # class id of PostgreSQL advisory locks; any number not used elsewhere
# Keys share locks, so that a transaction with many keys does not fill the server's lock table. A collision only waits
# for a short transaction.
_BUCKETS = 512


@dataclass(frozen=True, slots=True)
class Move:
    """A change of a queued row."""

    task_id: str
    hold: Hold
    leads: bool = False
    hurries: bool = False  # to the front of its queue


def lock_keys(conn: Connection, keys: Iterable[str]) -> None:
    """Keep other transactions from joining by these keys until this one ends."""
    hold_numbers(conn, _SPACE, list({crc32(key.encode()) % _BUCKETS for key in keys}))


def leaders(conn: Connection, keys: Collection[str]) -> dict[str, str]:
    """The ids of the leaders, by key. They are not locked."""
    if not keys:
        return {}
    wanted = encode({"key": key} for key in sorted(keys))
    return {row.cache_key: row.id for row in conn.execute(_leaders(), {ROWS: wanted})}


def followers(conn: Connection, keys: Collection[str], limit: int) -> Sequence[Row[Any]]:
    """(id, batch_id, cache_key) of up to `limit` followers, the oldest first. They are not locked."""
    if not keys:
        return []
    wanted = encode({"key": key} for key in sorted(keys))
    return conn.execute(_followers().limit(limit), {ROWS: wanted}).all()


def is_following(row: Row[Any], key: str) -> bool:
    """Whether a locked row still waits for the answer under a key."""
    return bool(row.status == Status.QUEUED and row.hold == Hold.FOLLOWING and row.cache_key == key)


def participant(row: Row[Any]) -> Participant:
    """A locked row as the joining rules see it. A leader that is not merely waiting counts as running."""
    waits = row.status == Status.QUEUED and row.hold in (Hold.NONE, Hold.UNTIL)
    return Participant(
        row.id, row.seq, row.client_id, row.step, row.expires_at, running=row.leads and not waits
    )


def move(conn: Connection, moves: Sequence[Move]) -> None:
    """Apply moves to queued rows; those that stay in their queue keep their place."""
    if moves:
        rows = ({"id": m.task_id, "hold": m.hold, "leads": m.leads, "hurries": m.hurries} for m in moves)
        conn.execute(_move(), {ROWS: encode(rows)})


def stop_leading(conn: Connection, ids: Collection[str]) -> None:
    """Stop these tasks leading, whatever their state."""
    if ids:
        conn.execute(_resign(), {ROWS: encode({"id": name} for name in sorted(ids))})


@cache
def _leaders() -> Select[Any]:
    wanted = recordset(key=Text())
    return (
        select(task.c.id, task.c.cache_key)
        .join(wanted, wanted.c.key == task.c.cache_key)
        .where(text(LEADING))
    )


@cache
def _followers() -> Select[Any]:
    wanted = recordset(key=Text())
    found = select(task.c.id, task.c.batch_id, task.c.cache_key)
    found = found.join(wanted, wanted.c.key == task.c.cache_key)
    return found.where(text(FOLLOWING)).order_by(task.c.seq)


@cache
def _move() -> Update:
    wanted = recordset(id=Text(), hold=Integer(), leads=Boolean(), hurries=Boolean())
    stays = wanted.c.hold == Hold.NONE
    return (
        update(task)
        .where(task.c.id == wanted.c.id, has_status(Status.QUEUED))
        .values(
            hold=case((wanted.c.hurries, task.c.hold), else_=wanted.c.hold),
            leads=wanted.c.leads,
            front=task.c.front | wanted.c.hurries,
            fed_at=case((stays, task.c.fed_at), else_=null()),
        )
    )


@cache
def _resign() -> Update:
    locked = lock_in_order(recordset(id=Text()))
    return update(task).where(task.c.seq == locked.c.seq).values(leads=False)


_TOKENS = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")


@dataclass(frozen=True, slots=True)
class ReusedAnswer:
    """An answer for a task: a fallback, from the cache, or what an identical task has just received."""

    row: Row[Any]  # locked, as `locks.lock_tasks` reads it
    answer: CachedAnswer
    at: float
    cached: bool  # also for a stale answer; a configured text counts as neither


def reuse_answers(conn: Connection, given: Sequence[ReusedAnswer]) -> None:
    """End queued tasks as succeeded at no further cost, and record the savings.

    The caller advances batches and writes callbacks, by `progress.record_progress`.
    """
    if not given:
        return
    conn.execute(_statement(), {ROWS: encode(map(_columns, given))})
    for result, numbers in _by_result(given).items():
        conn.execute(_content(), {"result": result, ROWS: encode({"seq": n} for n in numbers)})
    write_usage(conn, (saving_entry(item.row, item.answer, cached=item.cached, at=item.at) for item in given))


def saving_entry(row: Any, answer: CachedAnswer, *, cached: bool, at: float) -> UsageEntry:
    """The ledger entry of a reused answer. `row` has `client_id` and `model`."""
    saved = answer.cost.picos if answer.cost else 0
    heading = Heading(day_of(at), row.client_id, row.model, currency=answer.currency or "")
    if answer.fallback is FallbackKind.TEXT:
        return UsageEntry(heading, UsageFigures(tasks=1))
    if cached:
        return UsageEntry(heading, UsageFigures(tasks=1, cache_hits=1, saved_cache=saved))
    return UsageEntry(heading, UsageFigures(tasks=1, coalesced=1, saved_coalescing=saved))


def tokens(answer: CachedAnswer) -> Mapping[str, int | None]:
    """The token columns of an answer."""
    return {name: getattr(answer.usage, name) if answer.usage else None for name in _TOKENS}


def _by_result(given: Sequence[ReusedAnswer]) -> dict[str, list[int]]:
    """Seqs by result, so that equal results are sent once."""
    found: dict[str, list[int]] = {}
    for item in given:
        found.setdefault(item.answer.result, []).append(item.row.seq)
    return found


def _columns(item: ReusedAnswer) -> dict[str, Any]:
    return {
        "id": item.row.id,
        "was_hold": item.row.hold,
        "at": item.at,
        "own": item.answer.currency,
        "cached": item.cached and item.answer.cached,
        "degraded": item.answer.fallback is not None,
        "simulated": item.answer.simulated,
        "finish": item.answer.finish if item.answer.cached else None,
        **tokens(item.answer),
    }


@cache
def _statement() -> Update:
    """From queued, with the hold it was read with. The cost of the task's own earlier calls stays."""
    counts = {name: Integer() for name in _TOKENS}
    flags = {"cached": Boolean(), "simulated": Boolean(), "degraded": Boolean()}
    to = recordset(id=Text(), was_hold=Integer(), at=Double(), own=Text(), finish=Text(), **counts, **flags)
    return (
        update(task)
        .where(task.c.id == to.c.id, task.c.status == Status.QUEUED, task.c.hold == to.c.was_hold)
        .values(
            status=Status.SUCCEEDED,
            finished_at=to.c.at,
            cached=to.c.cached,
            coalesced=~(to.c.cached | to.c.degraded),
            degraded=to.c.degraded,
            simulated=to.c.simulated,
            finish=to.c.finish,
            cost_picos=case((task.c.currency == NO_SUM, null()), else_=func.coalesce(task.c.cost_picos, 0)),
            currency=func.coalesce(task.c.currency, to.c.own),
            leads=false(),
            fed_at=null(),
            **{name: to.c[name] for name in _TOKENS},
        )
    )


@cache
def _content() -> Update:
    numbers = recordset(seq=BigInteger())
    same = task_content.c.seq == numbers.c.seq
    return update(task_content).where(same).values(result=bindparam("result"))


AT_ONCE = 2_000  # followers that end in one transaction; the rest end in later ones


@dataclass(frozen=True, slots=True)
class Following:
    """The followers of the answers that are about to be recorded, at the time of reading."""

    rows: Sequence[Row[Any]] = field(default_factory=tuple)

    @property
    def ids(self) -> set[str]:
        """Their ids."""
        return {row.id for row in self.rows}

    @property
    def batches(self) -> set[str | None]:
        """Their batches."""
        return {row.batch_id for row in self.rows}


def following(conn: Connection, endings: Sequence[AttemptEnd]) -> Following:
    """The followers of the tasks that succeed by these endings. They are not locked."""
    keys = {e.claimed.cache_key for e in endings if e.status is Status.SUCCEEDED and e.claimed.cache_key}
    return Following(followers(conn, keys, AT_ONCE)) if keys else Following()


def given_by(
    ending: AttemptEnd, leader: Row[Any], waiting: Following, rows: Mapping[str, Row[Any]]
) -> list[ReusedAnswer]:
    """The answers for a successful leader's followers; `rows` are the locked rows."""
    if not leader.leads or ending.result is None or ending.status is not Status.SUCCEEDED:
        return []
    answer = CachedAnswer(ending.result, ending.usage, ending.cost, ending.simulated, finish=ending.finish)
    mine = (rows[row.id] for row in waiting.rows if row.cache_key == leader.cache_key and row.id in rows)
    return [
        ReusedAnswer(row, answer, ending.finished_at, cached=False)
        for row in mine
        if row.id != leader.id and is_following(row, leader.cache_key)
    ]


def anyone_left(conn: Connection, keys: set[str], waiting: Following) -> bool:
    """Whether there are followers that `waiting` lacks: too recent, or too many for one transaction.

    Then these leaders keep leading though they have ended: `replace_abandoned` finds them and answers the rest.
    """
    known = waiting.ids
    return any(row.id not in known for row in followers(conn, keys, len(known) + 1))
