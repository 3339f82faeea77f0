"""/openapi.json and /docs are true, whole, and fetch nothing from elsewhere."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import jsonschema
import orjson
import pytest
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.api.world import Client, World


@pytest.fixture
def document(world: World) -> Any:
    return world.app.test_client().get("/openapi.json").json


def check(document: Any, name: str, value: Any) -> None:
    """Hold a value against a schema of the document."""
    resource = Resource(contents=document, specification=DRAFT202012)
    registry: Any = Registry().with_resource("urn:api", resource)
    schema = {"$ref": f"urn:api#/components/schemas/{name}"}
    jsonschema.Draft202012Validator(schema, registry=registry).validate(value)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "$ref":
                yield inner
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_route_is_documented_and_every_documented_one_exists(world: World, document: Any) -> None:
    served = {
        (method, re.sub(r"<(?:path:)?(\w+)>", r"{\1}", rule.rule))
        for rule in world.app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if not rule.rule.startswith("/api/")
        and rule.rule not in ("/openapi.json", "/docs")
        and not rule.endpoint.startswith("dashboard.")  # pages for people
    }
    documented = {(m.upper(), path) for path, methods in document["paths"].items() for m in methods}
    assert documented == served


def test_the_document_is_openapi_3_1_without_loose_ends(document: Any) -> None:
    assert document["openapi"] == "3.1.0"
    schemas = document["components"]["schemas"]
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    operations = [op for methods in document["paths"].values() for op in methods.values()]
    assert len({op["operationId"] for op in operations}) == len(operations)
    for path, methods in document["paths"].items():
        for operation in methods.values():
            in_path = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert in_path == set(re.findall(r"{(\w+)}", path))


def test_real_answers_are_what_the_document_says(world: World, alice: Client, document: Any) -> None:
    hook = "https://example.com/hook"
    done, failed, waiting = (alice.submit(callback_url=hook, metadata={"a": "b"}) for _ in range(3))
    world.end(done)
    world.fail(failed)
    for task_id in (done, failed, waiting):
        check(document, "Task", alice.task(task_id))
        check(document, "AttemptList", alice.get(f"/v1/tasks/{task_id}/attempts").json)
        check(document, "DeliveryList", alice.get(f"/v1/tasks/{task_id}/deliveries").json)
    check(document, "Task", alice.post("/v1/tasks", {"prompt": "x"}).json)
    check(document, "TaskList", alice.get("/v1/tasks?limit=2").json)
    batch = alice.submit_batch(2, callback_url=hook, batch_size=1)
    check(document, "AcceptedBatch", batch)
    world.end(batch["task_ids"][0])
    check(document, "Batch", alice.get(f"/v1/batch/{batch['id']}").json)
    for line in alice.get(f"/v1/batch/{batch['id']}/results").data.splitlines():
        check(document, "ResultLine", orjson.loads(line))
    check(document, "ErrorEnvelope", alice.get("/v1/tasks/x").json)
    check(document, "Health", alice.get("/healthz").json)


def test_real_bodies_are_what_the_document_says(document: Any) -> None:
    check(
        document,
        "TaskBody",
        {"prompt": "x", "expires_in": "10m", "run_at": 5, "parameters": {"temperature": 1}},
    )
    check(
        document,
        "BatchBody",
        {"requests": [{"messages": [{"role": "user"}], "custom_id": "a"}], "batch_size": 5},
    )
    for bad in ({"promt": "x"}, {"prompt": 5}):
        with pytest.raises(jsonschema.ValidationError):
            check(document, "TaskBody", bad)


class _Page(HTMLParser):
    """Collects ids, links, and whatever a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.fetched: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.ids.add(str(given["id"]))
        if tag == "a":
            self.links.add(str(given["href"]))
        elif "src" in given or "href" in given:
            self.fetched.add(str(given.get("src") or given.get("href")))


def test_the_page_stands_alone_and_its_links_lead_somewhere(world: World, document: Any) -> None:
    answer = world.app.test_client().get("/docs")
    html = answer.get_data(as_text=True)
    page = _Page()
    page.feed(html)
    assert answer.mimetype == "text/html"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert page.fetched == set()
    assert "<script" not in html
    assert "url(" not in html
    for link in page.links:
        assert link == "/openapi.json" or link.removeprefix("#") in page.ids
    for path in document["paths"]:
        assert path in html
    assert len(html) < 190_000
