"""/v1/usage: what was used and paid, exactly, by what is asked for; one's own alone."""

import csv
import io
from typing import Any

import pytest

from app.platform.domain.money import CallCost
from tests.api.world import ADMIN_KEY, Client, World

ALL = "/v1/usage?from=2000-01-01"


def used(client: Client, query: str = "") -> list[dict[str, Any]]:
    answer = client.get(ALL + query)
    assert answer.status_code == 200, answer.data
    return list(answer.json["data"])  # type: ignore[index]


def test_a_client_sees_what_it_used_and_paid(world: World, alice: Client) -> None:
    for _ in range(3):
        world.end(alice.submit())
    (row,) = used(alice)
    assert (row["client"], row["model"], row["currency"]) == (alice.id, "deepseek-flash", "USD")
    assert (row["tasks"], row["calls"], row["prompt_tokens"], row["cached_tokens"]) == (3, 3, 15, 9)
    assert (row["cost_micros"], row["cost"]) == (37, "0.0000372")


@pytest.mark.parametrize("by", ["model", "client,model", "day,key", "account", "upstream_model", "client"])
def test_response_times_are_percentiles_of_successful_calls(
    world: World, alice: Client, stranger: Client, by: str
) -> None:
    for seconds in (1.0, 2.0, 3.0, 10.0):
        claimed = world.claim_all([alice.submit()])
        world.record(*claimed, finished_at=world.parts.clock.now() + seconds)
    world.fail(alice.submit())  # teaches nothing
    (row,) = used(alice, f"&by={by}")
    times = [row[f"response_{name}_seconds"] for name in ("p50", "p90", "p99")]
    assert times == pytest.approx([2.0, 10.0, 10.0], abs=0.5)
    assert used(stranger, f"&by={by}") == []
    lines = alice.get(f"{ALL}&by={by}&format=csv").data.decode().splitlines()
    assert lines[0].endswith("response_p50_seconds,response_p90_seconds,response_p99_seconds")
    assert lines[1].endswith(",".join(map(str, times)))


def test_of_days_without_calls_response_times_are_null(world: World, alice: Client) -> None:
    world.fail(alice.submit())
    assert {row["response_p50_seconds"] for row in used(alice)} <= {None}


def test_estimated_starts_are_held_against_the_real_ones(
    world: World, alice: Client, stranger: Client
) -> None:
    tasks = [alice.submit() for _ in range(3)]
    told = alice.get("/v1/estimates").json
    assert told == dict.fromkeys(told) | {"object": "estimates", "tasks": 0, "unestimated": 0}
    for task in tasks:
        world.end(task)
    told = alice.get("/v1/estimates").json
    assert (told["tasks"], told["unestimated"]) == (3, 0)
    assert 0 < told["median_error_seconds"] <= 18  # foretold: 9 ahead at 0.5 a second
    assert told["within_twice"] == 0.0
    assert stranger.get("/v1/estimates").json["tasks"] == 0


def test_a_strangers_use_is_not_seen_and_may_not_be_asked_for(
    world: World, alice: Client, stranger: Client
) -> None:
    world.end(alice.submit())
    assert used(stranger) == []
    refused = stranger.get(f"{ALL}&client={alice.id}")
    assert (refused.status_code, refused.json["error"]["param"]) == (403, "client")  # type: ignore[index]


def test_an_administrator_sees_everybody_and_how_connections_were_used(
    world: World, alice: Client, stranger: Client
) -> None:
    for client in (alice, stranger):
        world.end(client.submit())
    admin = world.anonymous(ADMIN_KEY)
    assert {row["client"] for row in used(admin, "&by=client")} >= {alice.id, stranger.id}
    (row,) = used(admin, f"&by=client,key,day&client={alice.id}")
    assert (row["client"], row["key"], "model" in row) == (alice.id, "k1", False)
    assert set(admin.get(ALL).json["connections"]) == {"calls", "opened", "per_1000_calls"}  # type: ignore[index]
    assert alice.get(ALL).json["connections"] is None  # type: ignore[index]


def test_currencies_are_kept_apart_and_an_unknown_price_is_null(world: World, alice: Client) -> None:
    world.end(alice.submit(), cost=CallCost(10**12, "USD"))
    world.end(alice.submit(), cost=CallCost(10**12, "CNY"))
    world.end(alice.submit(), cost=None)
    money = {row["currency"]: (row["cost"], row["cost_micros"], row["unpriced_calls"]) for row in used(alice)}
    assert money == {"USD": ("1.00", 10**6, 0), "CNY": ("1.00", 10**6, 0), None: (None, None, 1)}


def test_as_csv_it_is_the_same_report(world: World, alice: Client) -> None:
    world.end(alice.submit())
    answer = alice.get(f"{ALL}&format=csv&by=model,day")
    assert answer.content_type.startswith("text/csv")
    (line,) = csv.DictReader(io.StringIO(answer.data.decode()))
    (row,) = used(alice, "&by=model,day")
    assert {name: "" if value is None else str(value) for name, value in row.items()} == line


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("?by=model,colour", "by"),
        ("?from=yesterday", "from"),
        ("?from=2026-01-02&to=2026-01-01", "to"),
        ("?format=xml", "format"),
        ("?colour=red", "colour"),
    ],
)
def test_a_question_that_cannot_be_meant_is_refused_by_its_name(
    alice: Client, query: str, param: str
) -> None:
    refused = alice.get(f"/v1/usage{query}")
    assert refused.status_code == 400
    assert refused.json["error"]["param"] == param  # type: ignore[index]
