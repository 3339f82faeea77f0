"""One envelope for every refusal, one request id on every answer."""

import threading
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.api.application import create_app
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.logs import without_values
from tests.api.world import Client, Parts, World


def error_of(answer: Any) -> dict[str, Any]:
    assert answer.mimetype == "application/json"
    (error,) = answer.json.values()
    assert set(error) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"]
    return dict(error)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "//v1/tasks", 404, "not_found"),
        ("GET", "/v1/embeddings", 404, "not_found"),
        ("GET", "/v1/tasks/a/b/c", 404, "not_found"),
        ("PUT", "/v1/tasks", 405, "method_not_allowed"),
        ("DELETE", "/v1/batch", 405, "method_not_allowed"),
        ("GET", "/v1/batch", 405, "method_not_allowed"),
        ("GET", "/v1/tasks/task_1/cancel", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/tasks", 405, "method_not_allowed"),
    ],
)
def test_what_is_not_offered_is_refused_in_the_envelope(
    alice: Client, method: str, path: str, status: int, code: str
) -> None:
    answer = alice.call(method, path)
    assert answer.status_code == status
    assert error_of(answer)["code"] == code
    assert ("Allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("asked", ["abc", "A-1.b:c_d", "x" * 128])
def test_a_request_id_of_the_callers_is_kept(alice: Client, asked: str) -> None:
    assert alice.get("/healthz", x_request_id=asked).headers["x-request-id"] == asked


@pytest.mark.parametrize("asked", ["", "x" * 129, "a b", "a\tb", "é", "<script>"])
def test_another_request_id_is_replaced(alice: Client, asked: str) -> None:
    assert alice.get("/healthz", x_request_id=asked).headers["x-request-id"].startswith("req_")


class Broken:
    """A fault of ours, with a prompt in its message."""

    def foresee(self, *_: Any) -> Any:
        raise RuntimeError("the secret prompt")

    def is_keyless(self, _model: str) -> bool:
        return False

    def publish(self, messages: Any, *, feeding: bool = False) -> Any:
        raise RuntimeError("the secret prompt")

    def listen(self, _heard: Any, stop: threading.Event) -> None:
        stop.wait()


class DeadDatabase:
    """A database out of reach."""

    dialect = "postgresql"

    def read(self, fn: Any) -> Any:
        raise DatabaseUnreachable("connection refused at 10.0.0.1", retry_after=2.2)

    write = glance = read

    def ping(self) -> None:
        self.read(None)


def test_an_unforeseen_fault_is_a_500_that_tells_nothing(world: World, alice: Client) -> None:
    app = create_app(Parts(world.database, explain=Broken()))  # type: ignore[arg-type]
    with capture_logs(processors=[without_values]) as logged:
        answer = Client("", alice.key, app.test_client()).post("/v1/tasks", {"prompt": "hello"})
        app.close()
    assert answer.status_code == 500
    error = error_of(answer)
    assert (error["type"], error["code"]) == ("server_error", "internal")
    assert "secret" not in answer.get_data(as_text=True) + str(logged)
    assert "RuntimeError" in str(logged)


def test_what_is_stored_is_accepted_whatever_comes_of_publishing_it(world: World, alice: Client) -> None:
    app = create_app(Parts(world.database, publisher=Broken()))  # type: ignore[arg-type]
    with capture_logs(processors=[without_values]) as logged:
        answer = Client("", alice.key, app.test_client()).post("/v1/tasks", {"prompt": "hello"})
        app.close()
    assert answer.status_code == 202
    assert alice.task(answer.json["id"])["status"] == "queued"
    assert "secret" not in str(logged)
    assert "RuntimeError" in str(logged)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/tasks"),
        ("POST", "/v1/batch"),
        ("GET", "/v1/tasks"),
        ("GET", "/v1/tasks/task_1"),
        ("GET", "/readyz"),
    ],
)
def test_without_the_database_everything_is_503_and_says_when_to_come_back(
    world: World, alice: Client, method: str, path: str
) -> None:
    parts = Parts(DeadDatabase())  # type: ignore[arg-type]
    app = create_app(parts)
    body = {"prompt": "hello"} if path == "/v1/tasks" else {"requests": [{"prompt": "hello"}]}
    answer = Client("", alice.key, app.test_client()).call(method, path, body if method == "POST" else None)
    app.close()
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "3"
    assert "10.0.0.1" not in error_of(answer)["message"]
    assert parts.publisher.published == []


def test_health_needs_no_database_and_no_key() -> None:
    app = create_app(Parts(DeadDatabase()))  # type: ignore[arg-type]
    assert app.test_client().get("/healthz").json == {"status": "ok"}
    assert app.test_client().get("/metrics").status_code == 200
    app.close()


def test_ready_means_that_the_database_answers(world: World) -> None:
    assert world.app.test_client().get("/readyz").json == {"status": "ok"}


def test_metrics_count_requests_by_route_and_hold_no_ids(world: World, alice: Client) -> None:
    task_id = alice.submit()
    alice.task(task_id)
    page = alice.get("/metrics")
    text = page.get_data(as_text=True)
    assert page.mimetype == "text/plain"
    assert 'penstock_http_requests_total{method="POST",route="/v1/tasks",status="202"}' in text
    assert 'route="/v1/tasks/<task_id>"' in text
    assert 'penstock_tasks_submitted_total{model="deepseek-flash",way="single"}' in text
    assert "penstock_waiters 0.0" in text
    assert task_id not in text
    assert alice.id not in text
