"""Read the audit log, and check that its chain holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from app.access.domain.audit import ChainBreak, ChainCheck, ChainHead
from app.access.store import audit
from app.access.store.audit import AuditFilter, Kept
from app.platform.database import Database

_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Checked:
    """What a walk over the whole chain found."""

    head: ChainHead
    entries: int  # links that hold
    unlinked: int  # entries that wait for the leader
    fault: ChainBreak | None


def entries(database: Database, wanted: AuditFilter, limit: int | None = None) -> Iterator[Kept]:
    """Entries in order, read page by page; with `limit` only the last so many."""
    if limit is not None and limit <= _PAGE:
        yield from reversed(database.read(partial(audit.newest_audit, wanted=wanted, limit=limit)))
        return
    after, left = 0, limit
    while page := database.read(partial(audit.read_audit, wanted=wanted, after_seq=after, limit=_PAGE)):
        yield from page if left is None else page[:left]
        after, left = page[-1].seq, None if left is None else left - len(page)
        if len(page) < _PAGE or (left is not None and left <= 0):
            return


def verify(database: Database) -> Checked:
    """Walk the chain from its beginning to the head that stood when the walk began."""
    head, unlinked = database.read(lambda conn: (audit.read_head(conn), audit.count_unlinked(conn)))
    check, after = ChainCheck(head), head.first - 1
    while after < head.number:
        page = database.read(partial(audit.read_links, after=after, limit=_PAGE))
        if not page:
            break
        for one in page:
            if one.number > head.number:
                break
            if fault := check.add(one):
                return Checked(head, check.seen, unlinked, fault)
        after = page[-1].number
    return Checked(head, check.seen, unlinked, check.end())
