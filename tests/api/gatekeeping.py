"""Clients with limits and keys with scopes, made over HTTP as an administrator does; budgets and their keeper."""

from __future__ import annotations

from itertools import count
from typing import Any

from sqlalchemy import select, update

from app.access.manage_policies import PolicyBook
from app.access.store.access_tables import budget_use
from app.dispatching.housekeeping import SettleBudgets
from app.submission.submission_rules import admission_of
from app.tasks.store.tables import task
from tests.api.world import Client, World

_numbers = count(1)


def later(world: World) -> None:
    """Every process has read policies, limits and keys anew."""
    world.parts.clock.ahead += 6


def made(world: World, admin: Client, **fields: Any) -> Client:
    """A client added over HTTP."""
    name = f"gate-{next(_numbers)}-{world.database.dialect}"
    answer = admin.post("/v1/admin/clients", {"id": name, **fields})
    assert answer.status_code == 201, answer.data
    later(world)
    return Client(name, answer.json["api_key"], world.app.test_client())


def with_key(world: World, admin: Client, client: Client, **fields: Any) -> Client:
    answer = admin.post(f"/v1/admin/clients/{client.id}/keys", fields)
    assert answer.status_code == 201, answer.data
    return Client(client.id, answer.json["api_key"], world.app.test_client())


def spent(world: World, client: Client) -> list[tuple[int, int]]:
    mine = select(budget_use.c.tokens, budget_use.c.picos).where(budget_use.c.client_id == client.id)
    return [tuple(row) for row in world.database.read(lambda c: c.execute(mine).all())]


def keep_budgets(world: World) -> None:
    policies = PolicyBook(world.database, world.parts.clock, world.parts.settings.access.default)
    admission = admission_of(world.parts.settings, world.database, world.parts.clock, policies)
    SettleBudgets(world.database, world.publisher, admission, world.parts.clock).tick()


def failed(world: World, name: str) -> str:
    """A task of that id that has failed."""
    changed = update(task).where(task.c.id == name).values(status="failed", error_code="upstream_unavailable")
    world.database.write(lambda c: c.execute(changed))
    return name
