"""The API in this process, on a real database, with a publisher that can be looked into."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import orjson
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.access.manage_clients import add_client
from app.access.request_rates import NoRates
from app.api.application import PenstockApi, create_app
from app.caching.domain.caching import AnswerCache, NoAnswers
from app.execution.store.claims import claim
from app.execution.store.endings import end
from app.pacing.ports import Explanation, Queued, QueueForecast
from app.platform.database import Database
from app.platform.domain.money import CallCost
from app.platform.ports import SystemClock
from app.reporting.meters import Meters
from app.settings import Settings
from app.tasks.domain.attempt import (
    AttemptEnd,
    Claim,
    Claimed,
    Finish,
    Message,
    Outcome,
    Permit,
    Refusal,
    TaskFailure,
    TokenUsage,
)
from app.tasks.domain.task import Status

MODEL = "deepseek-flash"
ADMIN_KEY = "an administrator's key, from the environment"
COMPLETION = {
    "id": "c1",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"content": "Hi"}}],
}


class WatchedPublisher:
    """Takes messages, unless told to refuse; passes announcements on, unless told to be silent."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[str], None]] = []
        self.reset()

    def reset(self) -> None:
        self.published: list[Message] = []
        self.forgotten: list[str] = []
        self.announced: list[str] = []
        self.rings = 0
        self.refusal: Refusal | None = None
        self.silent = False

    def publish(self, messages: Sequence[Message], *, feeding: bool = False) -> Mapping[str, Refusal]:
        if self.refusal is not None:
            return {message.task_id: self.refusal for message in messages}
        self.published.extend(messages)
        return {}

    def forget(self, task_ids: Iterable[str]) -> None:
        self.forgotten.extend(task_ids)

    def announce(self, task_ids: Iterable[str]) -> None:
        for task_id in task_ids:
            self.announced.append(task_id)
            if not self.silent:
                for heard in self._listeners:
                    heard(task_id)

    def wake(self) -> None:
        self.rings += 1

    def listen(self, heard: Callable[[str], None], stop: threading.Event) -> None:
        self._listeners.append(heard)
        stop.wait()


DAY = 86_400.0
# Ahead of now by so much it is noon, UTC: tests of a day's or a month's budget must not meet its end by chance.
NOON = (1.5 * DAY - time.time() % DAY) % DAY


class MovableClock(SystemClock):
    """The real clock, and some: it stood at noon when the tests began."""

    ahead = NOON

    def now(self) -> float:
        return super().now() + self.ahead

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


class Oracle:
    """Explains every waiting task alike."""

    down: frozenset[str] = frozenset()
    keyless: frozenset[str] = frozenset()

    def foresee(self, model: str, queue: str, step: int, due: float) -> QueueForecast | None:
        return QueueForecast(9, 0.5, 0.0)

    def is_down(self, model: str) -> bool:
        return model in self.down

    def is_keyless(self, model: str) -> bool:
        return model in self.keyless

    def explain(self, task: Queued) -> Explanation:
        return Explanation(7, 1_800_000_000.0, f"quota of {task.model}")


DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def make_settings(**changes: Any) -> Settings:
    """One model on one key, and a second retry policy."""
    given = {
        "default_model": MODEL,
        "upstream": [{"name": "up", "base_url": "https://upstream.example/v1", "busy": ["always"]}],
        "calendar": [{"name": "always", "zone": "UTC", "hours": ["00:00-24:00"], "weekdays": [*DAYS]}],
        "key": [{"name": "k1", "upstream": "up", "secret": "env:K1"}],
        "model": [
            {"name": MODEL, "tiers": [["k1"]], "degraded": {"text": "busy", "after": 45}},
            {"name": "org/other.model", "tiers": [["k1:x"]]},
        ],
        "retry": {"patient": {"attempts": 9}},
        "admin_key": ADMIN_KEY,
        **changes,
    }
    return Settings.model_validate(given)


@dataclass
class Parts:
    """What create_app needs."""

    database: Database
    url: str = ""  # of the database
    settings: Settings = field(default_factory=make_settings)
    clock: MovableClock = field(default_factory=MovableClock)
    publisher: WatchedPublisher = field(default_factory=WatchedPublisher)
    explain: Oracle = field(default_factory=Oracle)
    streams: None = None
    rates: NoRates = field(default_factory=NoRates)

    answers: AnswerCache = field(default_factory=NoAnswers)
    meters: Meters = field(default_factory=Meters)

    @property
    def changes(self) -> WatchedPublisher:
        return self.publisher


@dataclass
class Client:
    """One client of the API, with its key."""

    id: str
    key: str
    http: FlaskClient

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> TestResponse:
        """One request; a body that is not bytes goes as JSON. Underscores in header names become hyphens."""
        sent = {"authorization": f"Bearer {self.key}", **{k.replace("_", "-"): v for k, v in headers.items()}}
        if body is not None and not isinstance(body, bytes):
            body = orjson.dumps(body)
            sent.setdefault("content-type", "application/json")
        return self.http.open(path, method=method, data=body, headers=sent)

    def get(self, path: str, **headers: str) -> TestResponse:
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> TestResponse:
        return self.call("POST", path, body, **headers)

    def submit(self, prompt: str = "hello", **fields: Any) -> str:
        """Submit a task; gives back its id."""
        answer = self.post("/v1/tasks", {"prompt": prompt, **fields})
        assert answer.status_code == 202, answer.data
        return str(answer.json["id"])  # type: ignore[index]

    def submit_batch(self, count: int = 3, **fields: Any) -> Any:
        """Submit a batch; gives back its JSON."""
        answer = self.post("/v1/batch", {"requests": [{"prompt": f"p{n}"} for n in range(count)], **fields})
        assert answer.status_code == 202, answer.data
        return answer.json

    def task(self, task_id: str) -> Any:
        """A task's JSON."""
        return self.get(f"/v1/tasks/{task_id}").json


class World:
    """The API and what stands around it. Every test brings clients of its own."""

    _numbers = count(1)

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.app: PenstockApi = create_app(parts)
        self._releases = count(1)

    @property
    def database(self) -> Database:
        return self.parts.database

    @property
    def publisher(self) -> WatchedPublisher:
        return self.parts.publisher

    def client(self) -> Client:
        """A new client."""
        made = add_client(self.database, self.parts.clock, f"client-{next(self._numbers)}")
        return Client(made.id, made.api_key, self.app.test_client())

    def anonymous(self, key: str = "") -> Client:
        """A caller with any key."""
        return Client("", key, self.app.test_client())

    def claim(self, task_id: str) -> Claimed:
        """What a worker does before it sends."""
        return self.claim_all([task_id])[0]

    def claim_all(self, task_ids: Sequence[str]) -> list[Claimed]:
        """What a worker does before it sends, for several at once."""
        now = self.parts.clock.now()
        claims = [
            Claim(Permit(task_id, next(self._releases), "k1", "up", "k1", "x", (), 100, now), "w", now)
            for task_id in task_ids
        ]
        claimed = self.database.write(lambda conn: claim(conn, claims))
        return [claimed[task_id] for task_id in task_ids]

    def end(self, *task_ids: str, **changes: Any) -> None:
        """Claim tasks and record their ends: successes, unless changed."""
        self.record(*self.claim_all(task_ids), **changes)

    def record(self, *claimed: Claimed, **changes: Any) -> None:
        """What a worker does after the calls."""
        given: dict[str, Any] = {
            "outcome": Outcome.SUCCEEDED,
            "status": Status.SUCCEEDED,
            "finished_at": self.parts.clock.now(),
            "result": orjson.dumps(COMPLETION).decode(),
            "finish": Finish.COMPLETE,
            "usage": TokenUsage(5, 2, 3, 1),
            "cost": CallCost(12_400_000, "USD"),
            "status_code": 200,
            "counts": True,
        }
        endings = [AttemptEnd(one, **{**given, **changes}) for one in claimed]
        recorded = self.database.write(lambda conn: end(conn, endings))
        assert all(one.held for one in recorded)
        self.publisher.announce([one.permit.task_id for one in claimed])

    def fail(self, task_id: str) -> None:
        """Claim a task and record its failure."""
        self.end(
            task_id,
            outcome=Outcome.INVALID_REQUEST,
            status=Status.FAILED,
            result=None,
            usage=None,
            cost=None,
            status_code=400,
            failure=TaskFailure("invalid_request_error", "invalid_request", "bad temperature"),
        )
