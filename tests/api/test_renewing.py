"""The application is exchanged while it serves."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from werkzeug.test import Client as Browser

from app.api.application import PenstockApi, create_app
from app.api.serve import ReloadableApp
from app.settings import ConfigError, Settings
from tests.api.world import ADMIN_KEY, World, make_settings
from tests.stack import wait_until

HEADERS = {"Authorization": f"Bearer {ADMIN_KEY}"}


@pytest.fixture
def renewing(world: World) -> Any:
    made: list[PenstockApi] = []

    def make(settings: Settings) -> PenstockApi:
        if settings.default_model is None:
            raise ConfigError("penstock.toml", 1, "no model", "name one")
        made.append(create_app(replace(world.parts, settings=settings)))
        return made[-1]

    found = ReloadableApp(make, world.parts.settings)
    yield found
    found.close()


def models(renewing: ReloadableApp) -> set[str]:
    answer = Browser(renewing).get("/v1/models", headers=HEADERS, buffered=True)
    assert answer.status_code == 200
    return {model["id"] for model in answer.json["data"]}  # type: ignore[index]


def test_new_requests_meet_the_new_configuration(renewing: ReloadableApp) -> None:
    before = models(renewing)
    renewing.renew(make_settings(model=[{"name": "fresh", "tiers": [["k1"]]}], default_model="fresh"))
    assert models(renewing) == {"fresh"} != before


def test_what_cannot_be_made_leaves_the_old_one_in_place(renewing: ReloadableApp) -> None:
    before = models(renewing)
    with pytest.raises(ConfigError):
        renewing.renew(make_settings(default_model=None))
    assert models(renewing) == before


def test_a_long_poll_ends_in_the_application_in_which_it_began(world: World, renewing: ReloadableApp) -> None:
    alice = world.client()
    task_id = alice.submit()
    old, seen = renewing.app, []
    headers = {"Authorization": f"Bearer {alice.key}"}

    def poll() -> None:
        seen.append(
            Browser(renewing).get(f"/v1/tasks/{task_id}?wait=50", headers=headers, buffered=True).json
        )

    waiting = threading.Thread(target=poll)
    waiting.start()
    wait_until(lambda: old.use_cases.waiters.count == 1)
    renewing.renew(make_settings(default_model="org/other.model"))
    assert renewing.app is not old
    assert seen == []
    world.end(task_id)
    waiting.join(120)
    assert seen[0]["status"] == "succeeded"
    wait_until(lambda: renewing._old == [])
