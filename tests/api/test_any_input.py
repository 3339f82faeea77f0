"""Whatever is sent is accepted or refused; it never breaks anything."""

import json
from typing import Any
from urllib.parse import urlencode

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.submission.bodies import BatchLine
from tests.api.world import ADMIN_KEY, MODEL, World

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(2**60, 2**80) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
TEXT = st.text(st.characters(), min_size=1, max_size=12)  # lone surrogates and NUL among them
GOOD = st.fixed_dictionaries(
    {"prompt": TEXT},
    optional={
        "parameters": st.dictionaries(TEXT, JSON, max_size=3),
        "metadata": st.dictionaries(TEXT, TEXT, max_size=3),
        "custom_id": TEXT,
        "model": st.just(MODEL) | TEXT,
        "callback_url": st.just("https://example.com/x") | TEXT.map(lambda t: f"https://{t}/{t}"),
        "expires_in": st.floats() | st.integers() | TEXT,
        "run_at": st.floats() | st.integers() | TEXT,
    },
)
ODD = st.dictionaries(st.sampled_from([*BatchLine.model_fields, "zzz"]), JSON, max_size=4)
examples = settings(
    max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


def post(world: World, path: str, body: Any, **headers: str) -> Any:
    client = world.anonymous(ADMIN_KEY)
    answer = client.post(path, json.dumps(body).encode(), **headers)
    assert answer.status_code in (202, 400), answer.data
    if answer.status_code == 400:
        assert answer.json["error"]["message"]  # type: ignore[index]
    return answer


@examples
@given(body=GOOD | ODD | JSON)
def test_any_task(world: World, body: Any) -> None:
    post(world, "/v1/tasks", body)


@examples
@given(line=GOOD | ODD)
def test_any_batch_and_its_results_can_be_read(world: World, line: Any) -> None:
    answer = post(world, "/v1/batch", line, content_type="application/x-ndjson")
    if answer.status_code == 202:
        client = world.anonymous(ADMIN_KEY)
        assert client.task(answer.json["task_ids"][0])["custom_id"] == line.get("custom_id")


@examples
@given(
    query=st.dictionaries(st.sampled_from(["after", "limit", "status", "batch_id", "x"]), TEXT, max_size=3)
)
def test_any_query(world: World, query: dict[str, str]) -> None:
    sent = {name: value.encode("utf-8", "surrogatepass") for name, value in query.items()}
    client = world.anonymous(ADMIN_KEY)
    headers = {"Authorization": f"Bearer {client.key}"}
    assert client.http.get(f"/v1/tasks?{urlencode(sent)}", headers=headers).status_code in (200, 400)
