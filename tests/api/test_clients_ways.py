"""Ways of clients that are not OpenAI's own: other addresses, other headers, browsers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from app.platform.domain.errors import Invalid
from app.submission.check_request import check_model
from app.submission.submission_rules import rules_of
from tests.api.gatekeeping import with_key
from tests.api.world import MODEL, Client, Parts, World, make_settings

PAGE = "https://app.example.com"
SAID = [{"role": "user", "content": "hello"}]


def preflight(client: Client, path: str, origin: str = PAGE) -> Any:
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,x-stainless-os",
    }
    return client.http.options(path, headers={"Origin": origin, **asked})


@pytest.fixture(scope="module")
def open_world(sqlite_parts: Parts) -> Iterator[World]:
    """As `world`, for pages of one origin, with a model of several names."""
    models = [{"name": MODEL, "tiers": [["k1"]], "aliases": ["deepseek-chat", "org/seven"]}]
    settings = make_settings(access={"cors_origins": [PAGE]}, model=models)
    world = World(Parts(sqlite_parts.database, sqlite_parts.url, settings=settings))
    world._numbers = count(9000)
    yield world
    world.app.close()


@pytest.mark.parametrize("header", ["api-key", "x-api-key", "Api-Key"])
def test_a_key_may_come_in_azures_header(alice: Client, header: str) -> None:
    assert alice.http.get("/v1/models", headers={header: alice.key}).status_code == 200
    basic = {"authorization": "Basic eDp5", header: alice.key}
    assert alice.http.get("/v1/models", headers=basic).status_code == 200
    wrong = alice.http.get("/v1/models", headers={header: "pk_" + "x" * 43})
    assert wrong.status_code == 401
    assert "api-key" in alice.http.get("/v1/models").json["error"]["message"]  # type: ignore[index]


def test_a_bearer_counts_before_other_headers(alice: Client) -> None:
    assert alice.get("/v1/models", api_key="pk_other").status_code == 200


@pytest.mark.parametrize(
    "path", ["/models", "/v1/v1/models/", "/v1//models", "/openai/models?api-version=2024-10-21"]
)
def test_other_addresses_are_served_and_counted_as_the_same(alice: Client, path: str) -> None:
    assert alice.get(path).status_code == 200
    assert alice.http.get(path).status_code == 401


def test_scopes_hold_at_other_addresses(world: World, admin: Client, alice: Client) -> None:
    reader = with_key(world, admin, alice, scopes=["tasks:read"])
    for path in ("/v1/files", "/files", "/v1/v1/files", "/openai/files", "/v1//files/"):
        assert reader.get(path).status_code == 403
    assert reader.get("/v1/v1/admin/clients").status_code == 403


def test_unknown_query_parameters_pass_on_openais_paths_alone(alice: Client) -> None:
    for path in ("/v1/files", "/v1/batches"):
        assert alice.get(f"{path}?api-version=1&custom_llm_provider=openai").status_code == 200
        assert alice.get(f"{path}?limit=none").status_code == 400
    assert alice.get("/v1/tasks?api-version=1").status_code == 400


def test_unknown_fields_of_a_batch_pass_unless_they_are_slips(alice: Client) -> None:
    body = {"input_file_id": "file_x", "endpoint": "/chat/completions", "completion_window": "24h"}
    passed = alice.post("/v1/batches", {**body, "custom_llm_provider": "openai"}).json
    assert passed["error"]["code"] == "file_not_found"  # type: ignore[index]
    slip = alice.post("/v1/batches", {**body, "calback_url": "https://x"}).json
    assert slip["error"]["param"] == "calback_url"  # type: ignore[index]
    ours = alice.post("/v1/batches", {**body, "penstock": {"batch_size": 0}}).json
    assert ours["error"]["param"] == "batch_size"  # type: ignore[index]
    header = alice.post("/v1/batches", body, x_penstock_batch_size="0").json
    assert header["error"]["param"] == "batch_size"  # type: ignore[index]


def test_options_may_come_in_headers(alice: Client) -> None:
    task = alice.post(
        "/v1/tasks", {"prompt": "x", "priority": 0}, x_penstock_priority="low", x_penstock_metadata='{"a":1}'
    )
    assert (task.status_code, task.json["priority"], task.json["metadata"]) == (202, "low", {"a": "1"})  # type: ignore[index]
    batch = alice.post("/v1/batch", {"requests": [{"prompt": "x", "top_p": 1}]}, x_penstock_batch_size="3")
    assert (batch.status_code, batch.json["batch_size"]) == (202, 3)  # type: ignore[index]
    lines = alice.post(
        "/v1/batch?batch_size=2",
        b'{"prompt": "x", "temperature": 0.5}\n',
        content_type="application/x-ndjson",
        x_penstock_batch_size="3",
    )
    assert (lines.status_code, lines.json["batch_size"]) == (202, 2)  # type: ignore[index]
    refused = alice.post("/v1/tasks", {"prompt": "x"}, x_penstock_colour="red")
    assert refused.json["error"]["param"] == "penstock.colour"  # type: ignore[index]


def test_models_are_not_clients_to_delete(alice: Client) -> None:
    assert alice.call("DELETE", f"/v1/models/{MODEL}").status_code == 403
    assert alice.call("DELETE", "/v1/models/nobody").status_code == 404


def test_a_page_of_a_configured_origin_may_call(open_world: World) -> None:
    client = open_world.client()
    for path in ("/v1/chat/completions", "/chat/completions", "/v1/tasks", "/v1/batch/batch_1/events"):
        asked = preflight(client, path)
        assert asked.status_code == 204
        assert asked.headers["Access-Control-Allow-Origin"] == PAGE
        assert asked.headers["Access-Control-Allow-Headers"] == "authorization,x-stainless-os"
        assert "POST" in asked.headers["Access-Control-Allow-Methods"]
        assert asked.headers["Vary"] == "Origin"
    for answer in (client.get("/v1/models", origin=PAGE), client.get("/nowhere", origin=PAGE)):
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert answer.headers["Access-Control-Expose-Headers"] == "*"


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://app.example.com", f"{PAGE}.evil.example", "null"]
)
def test_pages_of_other_origins_may_not(open_world: World, origin: str) -> None:
    client = open_world.client()
    asked = preflight(client, "/v1/tasks", origin)
    assert asked.status_code == 403
    assert "cors_origins" in asked.json["error"]["message"]  # type: ignore[index]
    assert "Access-Control-Allow-Origin" not in client.get("/v1/models", origin=origin).headers


def test_without_configured_origins_nothing_is_added(alice: Client) -> None:
    assert preflight(alice, "/v1/tasks").status_code == 403
    assert "Access-Control-Allow-Origin" not in alice.get("/v1/models", origin=PAGE).headers


@pytest.mark.parametrize("origin", ["app.example.com", f"{PAGE}/", "https://", "*.example.com", "ftp://x"])
def test_what_is_no_origin_is_refused_when_the_file_is_read(origin: str) -> None:
    with pytest.raises(ValueError, match="is no origin"):
        make_settings(access={"cors_origins": [origin]})


def test_a_model_may_be_asked_for_by_its_aliases(open_world: World) -> None:
    client = open_world.client()
    assert client.task(client.submit(model="deepseek-chat"))["model"] == MODEL
    assert client.submit_batch(model="org/seven")["request_counts"]["total"] == 3
    listed = client.get("/v1/models").json
    assert [model["id"] for model in listed["data"]] == [MODEL, "deepseek-chat", "org/seven"]  # type: ignore[index]
    assert client.get("/v1/models/org/seven").status_code == 200
    rules = rules_of(open_world.parts.settings)
    with pytest.raises(Invalid):
        check_model("deepseek-chatt", rules)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("DeepSeek-Chat", "deepseek-chat"),
        (" deepseek-chat ", "deepseek-chat"),
        ("deepseek-caht", "deepseek-chat"),
        ("deepseek/deepseek-chat", "deepseek-chat"),
        ("openrouter/deepseek/deepseek-chat", "deepseek-chat"),
        ("seven", "org/seven"),
        ("Org/Sevn", "org/seven"),
        ("claude-x", None),
    ],
)
def test_an_unknown_model_names_the_one_that_was_probably_meant(
    open_world: World, asked: str, meant: str | None
) -> None:
    client = open_world.client()
    answers = [
        client.post("/v1/chat/completions", {"model": asked, "messages": SAID}),
        client.post("/v1/tasks", {"model": asked, "prompt": "hello"}),
        client.get(f"/v1/models/{asked.strip()}"),
    ]
    errors = [got.json["error"] for got in answers if got.status_code != 200]
    assert {error["code"] for error in errors} == {"model_not_found"}
    assert all((f"did you mean '{meant}'?" in error["message"]) is bool(meant) for error in errors)
    assert all(("did you mean" in error["message"]) is bool(meant) for error in errors)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"", "empty document at line 1"),
        ('{"messages": "é"}'.encode("latin-1"), "sent as UTF-8"),
        ('{"messages": "中文"}'.encode("gbk"), "sent as UTF-8"),
        (b'{"messages": []}'.decode().encode("utf-16"), "sent as UTF-8"),
        (b'{"messages": []}'.decode().encode("utf-16-le"), "sent as UTF-8"),
        (b'{"messages": [],}', "at line 1 column 16"),
        (b"{'messages': []}", "at line 1 column 2"),
    ],
)
def test_a_body_that_cannot_be_read_says_why(alice: Client, sent: bytes, words: str) -> None:
    got = alice.post("/v1/chat/completions", sent)
    assert got.status_code == 400
    assert words in got.json["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (
            "/v1/tasks",
            {"prompt": "x", "max_tokens": 2**40},
            "at most 2,147,483,647; leave it out for no limit",
        ),
        (
            "/v1/chat/completions",
            {"messages": SAID, "max_completion_tokens": "auto"},
            "leave it out for no limit",
        ),
        ("/v1/chat/completions", {"messages": SAID, "n": 0}, "must be a positive integer"),
        ("/v1/batch", {"requests": [{"prompt": "x"}], "temperature": 0.1}, "put it into each of them"),
        ("/v1/batch", {"requests": [{"prompt": "x"}], "custom_id": "a"}, "put it into each of them"),
    ],
)
def test_a_refused_field_says_what_to_do(alice: Client, path: str, body: dict[str, Any], words: str) -> None:
    got = alice.post(path, body)
    assert got.status_code == 400
    assert words in got.json["error"]["message"]


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        ("sk-abc", "are pk_ and 43 characters"),
        ('"pk_x"', "penstock clients add"),
        ("pk_" + "x" * 43, "revoked"),
    ],
)
def test_a_refused_key_says_what_to_do(alice: Client, shown: str, words: str) -> None:
    got = alice.http.get("/v1/models", headers={"api-key": shown})
    assert (got.status_code, got.json["error"]["code"]) == (401, "invalid_api_key")  # type: ignore[index]
    assert words in got.json["error"]["message"]  # type: ignore[index]
