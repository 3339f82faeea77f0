"""The cache and degraded answers for clients that never ask for them, as the operator decides."""

from __future__ import annotations

from typing import Any

import pytest

from app.access.domain.caller import ClientLimits
from app.access.manage_clients import change_client
from app.caching.domain.caching import CachedAnswer
from app.caching.store.database_answers import DatabaseAnswers
from app.tasks.store.tables import task
from tests.api.world import ADMIN_KEY, Client, Parts, World, make_settings

ANSWER = CachedAnswer('{"choices":[{"finish_reason":"stop","message":{"content":"kept"}}]}')
NAMES = ("plain", "always", "off", "down")
DEGRADED = {"text": "busy", "after": 45, "always": True, "stale_if_error": 1000}
MODELS: list[dict[str, Any]] = [
    {"name": "plain", "tiers": [["k1"]]},
    {"name": "always", "tiers": [["k1"]], "cache": "always"},
    {"name": "off", "tiers": [["k1"]], "cache": "off"},
    {"name": "down", "tiers": [["k1"]], "cache": "always", "degraded": DEGRADED},
]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def cached(request: pytest.FixtureRequest) -> World:
    parts: Parts = request.getfixturevalue(f"{request.param}_parts")
    settings = make_settings(model=MODELS, default_model="plain")
    own = Parts(parts.database, url=parts.url, settings=settings)
    own.answers = DatabaseAnswers(parts.database, own.clock, stale_seconds=1000)
    return World(own)


def kept(world: World, task_id: str) -> str | None:
    """Under which key the answer of a task would be cached."""
    wanted = (
        task.select().with_only_columns(task.c.cache_key, task.c.cache_seconds).where(task.c.id == task_id)
    )
    key, seconds = world.database.read(lambda conn: conn.execute(wanted).one())
    return None if seconds is None else str(key)


def limit(world: World, client: Client, **limits: Any) -> Client:
    changes = {"limits": ClientLimits(**limits)}
    change_client(world.database, client.id, changes)
    world.parts.clock.ahead += 6  # seconds until it applies
    return client


@pytest.mark.parametrize("own", [None, "request", "always", "off"])
@pytest.mark.parametrize("model", ["plain", "always", "off"])
def test_the_operator_decides_for_requests_without_a_word(cached: World, own: str | None, model: str) -> None:
    client = limit(cached, cached.client(), cache=own)
    expected = "off" not in (own, model) and "always" in (own, model)
    assert (kept(cached, client.submit(model=model)) is not None) == expected
    batch = client.post("/v1/batch", {"requests": [{"prompt": "hello"}], "model": model}).json
    rows = task.select().with_only_columns(task.c.cache_key).where(task.c.batch_id == batch["id"])  # type: ignore[index]
    (key,) = cached.database.read(lambda conn: conn.execute(rows).scalars().all())
    assert (key is not None) == expected


def test_a_request_may_opt_out_and_off_is_off_for_all(cached: World) -> None:
    client = cached.client()
    assert kept(cached, client.submit(model="always", cache={"mode": "off"})) is None
    assert kept(cached, client.submit(model="off", cache={"mode": "write"})) is None
    assert kept(cached, client.submit(model="off", parameters={"temperature": 0})) is None


def test_what_its_client_does_not_store_is_not_cached_in_batches_either(cached: World) -> None:
    client = limit(cached, cached.client(), store=False)
    batch = client.post("/v1/batch", {"requests": [{"prompt": "hello"}], "model": "always"}).json
    columns = (task.c.stored, task.c.cache_key)
    rows = task.select().with_only_columns(*columns).where(task.c.batch_id == batch["id"])  # type: ignore[index]
    assert cached.database.read(lambda conn: conn.execute(rows).one()) == (False, None)


def chat(client: Client, model: str, text: str, **fields: Any) -> Any:
    body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
    return client.post("/v1/chat/completions", body, prefer="respond-async, wait=0")


def test_a_plain_chat_call_is_answered_from_the_cache_and_says_so(cached: World) -> None:
    client = cached.client()
    first = chat(client, "always", "again")
    assert first.status_code == 202
    cached.parts.answers.keep(kept(cached, first.json["id"]) or "", ANSWER, 60)
    again = chat(client, "always", "again")
    assert (again.status_code, again.headers["x-penstock-cache"]) == (200, "hit")
    assert again.json["choices"][0]["message"]["content"] == "kept"


def test_while_a_model_is_down_its_clients_are_answered_at_once(
    cached: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = cached.client()
    waiting = chat(client, "down", "asked before")
    assert waiting.status_code == 202
    cached.parts.answers.keep(kept(cached, waiting.json["id"]) or "", ANSWER, 60)
    cached.parts.clock.ahead += 100
    monkeypatch.setattr(cached.parts.explain, "down", frozenset({"down"}))
    stale, text = chat(client, "down", "asked before"), chat(client, "down", "new")
    assert (stale.status_code, stale.headers["x-penstock-cache"]) == (200, "stale")
    assert stale.json["choices"][0]["message"]["content"] == "kept"
    assert (text.status_code, text.headers["x-penstock-cache"]) == (200, "miss")
    assert (text.json["degraded"], text.json["choices"][0]["message"]["content"]) == (True, "busy")
    shown = client.task(text.headers["x-penstock-task"])
    assert (shown["status"], shown["degraded"], shown["cached"], shown["coalesced"]) == (
        "succeeded",
        True,
        False,
        False,
    )
    assert chat(client, "down", "never", allow_degraded=False).status_code == 202
    assert limit(cached, client, allow_degraded=False)
    assert chat(client, "down", "not for this client").status_code == 202


def test_hit_rates_are_shown_and_answers_cleared_by_client(cached: World) -> None:
    client, other = cached.client(), cached.client()
    for who in (client, other):
        first = chat(who, "always", "counted")
        cached.parts.answers.keep(kept(cached, first.json["id"]) or "", ANSWER, 60)
        assert chat(who, "always", "counted").status_code == 200
    shown = client.get("/v1/cache").json
    assert shown is not None
    assert shown["entries"] is None
    assert [(row["client"], row["tasks"], row["cache_hits"], row["hit_rate"]) for row in shown["data"]] == [
        (client.id, 1, 1, 1.0)
    ]
    assert client.get(f"/v1/cache?client={other.id}").status_code == 403
    assert client.post("/v1/cache/clear", {"client": other.id}).status_code == 403
    assert client.post("/v1/cache/clear", {}).json == {"object": "cache.cleared", "removed": 1}
    assert chat(client, "always", "counted").status_code == 202
    assert chat(other, "always", "counted").status_code == 200
    admin = cached.anonymous(ADMIN_KEY)
    assert (admin.get(f"/v1/cache?client={other.id}").json or {})["data"][0]["cache_hits"] == 2
    assert (admin.post("/v1/cache/clear", {"client": other.id}).json or {})["removed"] == 1
