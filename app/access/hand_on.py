"""Clients that a team's administrator adds: they share its weight and limits, so that many have no more than one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection

from app.access.client_settings import read_added_by, read_limits, write_limits
from app.access.domain.handing_on import MOST_CLIENTS, share, used_up
from app.access.domain.policy import AccessPolicy, grants_by_name
from app.access.store import clients
from app.access.store.clients import ClientRow
from app.platform.domain.errors import Forbidden
from app.tasks.domain.task import Priority


def hand_on(conn: Connection, maker: str) -> None:
    """Let the newest client of a maker's have its share. Raises Forbidden when there is too little for one more."""
    clients.lock_client(conn, maker)
    chief, mine, _ = _read(conn, maker)
    if len(mine) > MOST_CLIENTS:
        raise Forbidden(
            f"an administrator of a team adds at most {MOST_CLIENTS} clients; ask one of the service",
            code="too_many_clients",
        )
    limit = used_up(read_limits(chief.settings), len(mine)) if chief else None
    if limit is not None:
        raise Forbidden(
            f"limits.{limit}: yours does not suffice for {len(mine)} clients; ask an administrator of the service",
            param=f"limits.{limit}",
            code="nothing_left_to_share",
        )
    share_out(conn, maker)


def share_out(conn: Connection, maker: str) -> None:
    """Give all clients of a maker's equal shares of what it has now."""
    chief, mine, team = _read(conn, maker)
    if chief is None or not mine:
        return
    limits = share(read_limits(chief.settings), [read_limits(row.settings) for row in team], len(mine))
    low = chief.granted_priority == Priority.LOW
    for row in mine:
        priority = Priority.LOW if low else row.granted_priority
        weight, settings = chief.weight / len(mine), write_limits(limits, maker)
        clients.change_client(conn, row.id, weight=weight, granted_priority=priority, settings=settings)


def check_name(policies: Iterable[AccessPolicy], name: str) -> None:
    """Refuse a new client of a team's administrator that a policy would allow more by its name. Raises Forbidden."""
    if any(grants_by_name(policy, name) for policy in policies):
        raise Forbidden(
            f"id: a policy names {name!r}; choose another, or ask an administrator of the service",
            param="id",
            code="not_an_administrator",
        )


def _read(conn: Connection, maker: str) -> tuple[ClientRow | None, Sequence[ClientRow], Sequence[ClientRow]]:
    """The maker, the clients that share what it has, and the others of its team."""
    rows = clients.list_clients(conn)
    chief = next((row for row in rows if row.id == maker), None)
    mine = [row for row in rows if read_added_by(row.settings) == maker]
    names = {maker, *(row.id for row in mine)}
    team = [row for row in rows if chief and row.team == chief.administers and row.id not in names]
    return chief, mine, team
