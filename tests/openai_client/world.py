"""A whole service behind a socket, driven by the official OpenAI client with strict response validation."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import orjson
import redis

from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from simulator.faults import Fault
from simulator.latency import Latency
from tests.stack import PATIENCE, Caller, Key, Stack, key_environment, several_models, wait_until

FAST, ONE, SECOND = "fast", "one-at-a-time", "org/second"
RECORDED = "recorded"
MODELS = {
    FAST: [Key("fast", rpm=6000, burst=200, concurrency=100)],
    ONE: [Key("one", rpm=6000, burst=200, concurrency=1)],
    SECOND: [Key("second", rpm=6000, burst=200, concurrency=100)],
}
KEYS = [key for keys in MODELS.values() for key in keys]
# A prompt that holds one of these words meets the fault.
FAULTS = (
    Fault("slow", contains="[3 seconds]", factor=300),
    Fault("slow", contains="[slowly]", factor=60),
    Fault("400", contains="[bad]", message="the temperature is wrong"),
    Fault("500", contains="[down]"),
    Fault("500", contains="[down once]", count=1),
    Fault("stream-error", contains="[breaks]"),
    Fault("stream-cut", contains="[cut]"),
)
LATENCY = 0.01  # seconds

COMPLETION: dict[str, Any] = {
    "id": "chatcmpl-recorded",
    "object": "chat.completion",
    "created": 1,
    "model": "upstream-name",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "logprobs": None,
            "message": {"role": "assistant", "content": "recorded", "refusal": None},
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}


class Recorder:
    """An upstream that remembers what it was sent, and answers every call alike."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        bodies, answer = self.bodies, orjson.dumps(COMPLETION)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                bodies.append(orjson.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None: ...

        return Handler


def configuration(simulator: str, recorder: str) -> str:
    more = f"""
[[upstream]]
name = "recorder"
base_url = "{recorder}"

[[key]]
name = "recorder"
upstream = "recorder"
secret = "env:KEY_RECORDER"

[[model]]
name = "{RECORDED}"
tiers = [["recorder:upstream-name"]]

[retry.default]
attempts = 2
base = 0.05
cap = 0.1
"""
    return several_models(simulator, MODELS, more=more)


class World:
    """The service, its upstreams, and clients of it."""

    def __init__(self, folder: Path, database_url: str, redis_url: str) -> None:
        accounts = {f"sk-{key.name}": key.name for key in KEYS}
        self.upstream = SimulatorProcess(
            SimulatorConfig(keys=accounts, latency=Latency(mean=LATENCY), faults=FAULTS, tokens_per_second=0)
        )
        self.recorder = Recorder()
        self.stack = Stack(
            folder,
            configuration(self.upstream.base_url, self.recorder.base_url),
            database_url=database_url,
            redis_url=redis_url,
            environment={**key_environment(KEYS), "KEY_RECORDER": "sk-recorder"},
        )

    def start(self) -> None:
        self.stack.start_all()

    def stop(self) -> None:
        self.stack.stop()
        self.upstream.stop()
        self.recorder.stop()

    def client(self, key: str = "", **options: Any) -> openai.OpenAI:
        """The official client, as strict as it can be."""
        return openai.OpenAI(
            base_url=f"{options.pop('url', self.stack.url)}/v1",
            api_key=key or self.stack.admin_key,
            _strict_response_validation=True,
            **{"max_retries": 0, "timeout": PATIENCE, **options},
        )

    def async_client(self, **options: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.stack.url}/v1",
            api_key=self.stack.admin_key,
            _strict_response_validation=True,
            **{"max_retries": 0, "timeout": PATIENCE, **options},
        )

    @property
    def native(self) -> Caller:
        return self.stack.admin

    def calls(self, contains: str) -> list[dict[str, Any]]:
        """Tasks of the service whose prompts hold a text, with their upstream calls."""
        return [call for call in self.upstream.log() if contains in call.get("prompt", "")]

    @contextmanager
    def held(self, model: str = ONE) -> Iterator[None]:
        """Within, tasks of a model wait for as long as it takes, by an operator's pause."""
        assert self.native.call("POST", "/v1/admin/pauses", {"model": model}).status == 200
        try:
            wait_until(lambda: f"model:{model}" in self._obeyed(), what=f"{model} is paused")
            yield
        finally:
            self.native.call("POST", "/v1/admin/pauses/end", {"model": model})
            # Told about once a second: what stands there still must not be taken for the next pause.
            wait_until(lambda: f"model:{model}" not in self._obeyed(), what=f"{model} goes on")

    def _obeyed(self) -> list[str]:
        """What the leader holds back."""
        with redis.Redis.from_url(self.stack.environment["REDIS_URL"]) as client:
            said = client.get("penstock:why")
        return list(orjson.loads(said)["dispatcher"]["pauses"]) if said else []

    def figure(self, name: str) -> float:
        """A figure at /metrics, by its name and labels; 0 while there is none."""
        page = self.native.call("GET", "/metrics").body.decode()
        found = [line.rsplit(" ", 1)[1] for line in page.splitlines() if line.startswith(f"{name} ")]
        return sum(map(float, found))

    def task_ended(self, task_id: str) -> dict[str, Any]:
        found: dict[str, Any] = wait_until(
            lambda: (task := self.native.task(task_id))["finished_at"] and task, what=task_id
        )
        return found


def ask(words: str) -> Any:
    """Messages of one question."""
    return [{"role": "user", "content": words}]
