"""Those who follow a leader end with its answer, in the transaction that ends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row

from app.caching.domain.answer import CachedAnswer
from app.caching.store.coalescing_keys import followers, is_following
from app.caching.store.reuse_answer import GivenAnswer
from app.tasks.domain.attempt import AttemptEnd
from app.tasks.domain.task import Status

AT_ONCE = 2_000  # followers that end in one transaction; the rest follow in others


@dataclass(frozen=True, slots=True)
class Following:
    """Who waited, when this was read, for the answers that are about to be recorded."""

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
    """Who follows the tasks that these endings let succeed. Nobody is locked by this."""
    keys = {e.claimed.cache_key for e in endings if e.status is Status.SUCCEEDED and e.claimed.cache_key}
    return Following(followers(conn, keys, AT_ONCE)) if keys else Following()


def given_by(
    ending: AttemptEnd, leader: Row[Any], waiting: Following, rows: Mapping[str, Row[Any]]
) -> list[GivenAnswer]:
    """The answers that a leader's success gives; `rows` are the locked ones."""
    if not leader.leads or ending.result is None:
        return []
    answer = CachedAnswer(ending.result, ending.usage, ending.cost, ending.simulated)
    mine = (rows[row.id] for row in waiting.rows if row.cache_key == leader.cache_key and row.id in rows)
    return [
        GivenAnswer(row, answer, ending.finished_at, cached=False)
        for row in mine
        if row.id != leader.id and is_following(row, leader.cache_key)
    ]


def anyone_left(conn: Connection, keys: set[str], waiting: Following) -> bool:
    """Whether some began to follow after `waiting` was read, or were too many for one transaction.

    Then these leaders go on leading, though they have ended: `abandoned` finds them and answers who is left.
    """
    known = waiting.ids
    return any(row.id not in known for row in followers(conn, keys, len(known) + 1))
