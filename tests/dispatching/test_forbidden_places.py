"""A task that was accepted is not sent where policies have forbidden it since."""

from __future__ import annotations

from app.access.manage_policies import PolicyBook, ServingPlace, put_policy
from app.dispatching.key_supervisor import KeySupervisor
from app.pacing.domain.plan import Release
from app.platform.database import Database
from app.platform.ports import SystemClock
from app.settings.domain.routing import Route, Topology, key_quota
from app.upstreams.domain.key_health import HealthRules, Held, KeyHealth, KeyTestResult, Probe, Probed
from tests.pacing.pacing_world import GateWorld

KEYS = {"eu": Held("eu", "up-eu", "eu"), "us": Held("us", "up-us", "us")}
PLACES = [ServingPlace("m", held.upstream, name, key_quota(name, "m")) for name, held in KEYS.items()]


class NoTests:
    """Implements the Tester port."""

    def test(self, key: str, test: Probe) -> Probed:
        return Probed(KeyTestResult.WORKS, 0.0, 0.0)


def test_a_task_goes_only_where_policies_still_allow_it(redis_url: str, database: Database) -> None:
    routes = tuple(Route(name, held.upstream, name, "m") for name, held in KEYS.items())
    world = GateWorld(redis_url, Topology({"m": (routes,)})).lead()
    book = PolicyBook(database, SystemClock(), "allow")
    watch = KeySupervisor(
        database,
        KeyHealth(KEYS, HealthRules(idle=0)),
        NoTests(),
        SystemClock(),
        world.gate.release_brake,
        lambda: book.forbidden_places({"alice": "", "bob": ""}, PLACES),
    )
    world.dispatcher.watch = watch
    put_policy(
        database,
        SystemClock(),
        {"id": "eu-only", "effect": "deny", "principal": ["client:alice"], "resource": ["region:us"]},
        None,
    )
    watch.recall()
    for client in ("alice", "bob"):
        world.publish(6, client)
    released: list[Release] = []
    world.dispatcher.trace = lambda releases, _at: released.extend(releases)
    world.report()
    world.dispatcher.tick()
    used = {client: {r.route.key for r in released if r.client == client} for client in ("alice", "bob")}
    assert used["alice"] == {"eu"}
    assert "us" in used["bob"]
