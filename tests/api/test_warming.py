"""Likely prompts asked before they are asked: quietly, once, and never beyond the budget."""

from typing import Any

import pytest

from tests.api.world import Client, Parts, World, make_settings

PRICE = {"upstream": "up", "model": "deepseek-flash", "currency": "USD", "miss": "1000", "output": "1000"}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def priced(request: pytest.FixtureRequest) -> World:
    """The API with a price (a token costs 0.001 USD) and a cache."""
    parts: Parts = request.getfixturevalue(f"{request.param}_parts")
    return World(Parts(parts.database, url=parts.url, settings=make_settings(price=[PRICE])))


@pytest.fixture
def dora(priced: World) -> Client:
    return priced.client()


def warm(client: Client, **body: Any) -> Any:
    return client.post("/v1/cache/warm", body)


def prompts(*texts: str) -> list[dict[str, Any]]:
    return [{"prompt": text, "parameters": {"max_tokens": 100}} for text in texts]


def test_prompts_are_asked_at_low_priority_and_kept(priced: World, dora: Client) -> None:
    done = warm(dora, requests=prompts("a", "b"), budget="1")
    assert done.status_code == 202, done.data
    assert (len(done.json["task_ids"]), done.json["currency"]) == (2, "USD")
    task = dora.task(done.json["task_ids"][0])
    assert (task["priority"], task["status"]) == ("low", "queued")


def test_it_stops_before_it_could_cost_more_than_the_budget(dora: Client) -> None:
    done = warm(dora, requests=prompts("a", "b", "c"), budget="0.25").json
    assert (len(done["task_ids"]), done["left_out"]) == (2, 1)
    assert float(done["ceiling"]) <= 0.25


def test_the_most_frequent_prompts_of_a_client_are_its_own(priced: World, dora: Client) -> None:
    other = priced.client()
    for prompt, times in (("often", 3), ("twice", 2), ("once", 1)):
        for _ in range(times):
            dora.submit(prompt, parameters={"temperature": 0})
    for _ in range(9):
        other.submit("a stranger's", parameters={"temperature": 0})
    done = warm(dora, top=20, budget="100").json
    assert len(done["task_ids"]) == 2


def test_prompts_that_never_used_the_cache_count_too(priced: World) -> None:
    client = priced.client()
    for times, body in ((3, {}), (2, {"parameters": {"temperature": 0}}), (1, {"cache": {"mode": "off"}})):
        for _ in range(times):
            client.submit("asked six times in three ways" if "cache" not in body else "once", **body)
    done = warm(client, top=20, budget="100").json
    assert len(done["task_ids"]) == 2  # at temperature 0 it is another request
    shown = client.task(done["task_ids"][0])
    assert shown["priority"] == "low"


def test_without_a_price_the_refusal_says_what_to_add(dora: Client) -> None:
    refused = warm(dora, requests=[{"prompt": "x", "model": "org/other.model"}], budget="1").json
    assert "[[price]]" in refused["error"]["message"]


def test_it_may_be_asked_for_later(dora: Client) -> None:
    done = warm(dora, requests=prompts("later"), budget="1", run_at=4_000_000_000)
    assert done.status_code == 400
    assert done.json["error"]["param"] == "run_at"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"budget": "1"}, "requests"),
        ({"requests": [{"prompt": "x"}], "top": 1, "budget": "1"}, "requests"),
        ({"top": 1, "budget": "-1"}, "budget"),
        ({"top": 1}, "budget"),
        ({"requests": [{"prompt": "x", "model": "org/other.model"}], "budget": "1"}, "model"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_name(dora: Client, body: dict[str, Any], param: str) -> None:
    refused = warm(dora, **body)
    assert refused.status_code == 400
    assert refused.json["error"]["param"] == param
