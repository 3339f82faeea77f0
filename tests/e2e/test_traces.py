"""One task is one trace, through API, dispatcher, worker and callback, as a receiver of OTLP sees it."""

from __future__ import annotations

import gzip
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from tests.stack import Key, Stack, configuration, key_environment, wait_until

KEYS = (Key("main", rpm=60_000, concurrency=50),)
PLANTED = "the-prompt-that-nobody-may-see"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLBACKS = '[callbacks]\nallow_networks = ["127.0.0.0/8"]\nports = ["1024-65535"]\n'


class Receiver:
    """Takes spans at /v1/traces, and callbacks anywhere else."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.callbacks = 0
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                body = self.rfile.read(length)
                if len(body) < length:  # its sender was killed in the middle of it
                    self.close_connection = True
                    return
                if self.path == "/v1/traces":
                    packed = self.headers.get("content-encoding") == "gzip"
                    receiver.bodies.append(gzip.decompress(body) if packed else body)
                else:
                    receiver.callbacks += 1
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def spans(self, trace: str) -> list[Any]:
        """All spans of a trace that have come so far."""
        found = []
        for body in list(self.bodies):
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    found += [span for span in scope.spans if span.trace_id.hex() == trace]
        return found

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(60)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def names(spans: list[Any]) -> list[str]:
    return sorted(span.name for span in spans)


@pytest.mark.timeout(300)
def test_one_task_is_one_trace_and_a_batch_keeps_its_own(
    tmp_path: Path, redis_url: str, receiver: Receiver
) -> None:
    environment = {
        **key_environment(KEYS),
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "NO_PROXY": "127.0.0.1",
        "PENSTOCK_LOG_FORMAT": "json",
    }
    with SimulatorProcess(SimulatorConfig(keys={"sk-main": "main"})) as upstream:
        stack = Stack(
            tmp_path,
            configuration(upstream.base_url, KEYS, more=CALLBACKS),
            database_url=f"sqlite:///{tmp_path}/penstock.db",
            redis_url=redis_url,
            environment=environment,
        )
        with stack:
            stack.start_all()
            caller = stack.add_client("alice")
            body = {"prompt": PLANTED, "callback_url": f"{receiver.url}/hook"}
            made = caller.call("POST", "/v1/tasks", body, traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
            assert made.status == 202, made
            # A permit that was not redeemed in two seconds is released again: then there are two of that kind.
            whole = {"call", "callback", "record", "release", "run", "submit"}
            wait_until(
                lambda: set(names(receiver.spans(TRACE))) == whole,
                what=f"one trace {names(receiver.spans(TRACE))}\n{stack.logs()}",
            )
            batch = caller.submit_batch([f"{PLANTED} {number}" for number in range(3)])
            caller.finished_batch(batch["id"])
            wait_until(lambda: _batch_is_whole(receiver, batch["id"]), what=stack.logs())
            attempts = caller.call("GET", f"/v1/tasks/{made.body['id']}/attempts").body["data"]
    told_of = receiver.spans(TRACE)
    spans = {span.name: span for span in told_of}
    assert (
        names(told_of).count("submit") == names(told_of).count("call") == names(told_of).count("record") == 1
    )
    top = spans["submit"].span_id
    assert spans["submit"].parent_span_id.hex() == "00f067aa0ba902b7"
    below = ("release", "run", "callback")
    assert {span.parent_span_id for span in told_of if span.name in below} == {top}
    runs = {span.span_id for span in told_of if span.name == "run"}
    (parent,) = {spans[name].parent_span_id for name in ("call", "record")}
    assert parent in runs
    told = {one.key: one.value for one in spans["call"].attributes}
    assert told["penstock.upstream_request"].string_value == attempts[0]["upstream_request_id"]
    assert told["penstock.outcome"].string_value == "succeeded"
    everything = b"".join(receiver.bodies)
    for secret in (PLANTED.encode(), b"sk-main", caller.key.encode(), stack.admin_key.encode()):
        assert secret not in everything


def _batch_is_whole(receiver: Receiver, batch_id: str) -> bool:
    """Whether the trace that a batch was submitted in has a release, a run and a call for each of its three tasks."""
    for body in list(receiver.bodies):
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    if any(one.value.string_value == batch_id for one in span.attributes):
                        found = names(receiver.spans(span.trace_id.hex()))
                        seen = {name: found.count(name) for name in ("submit", "release", "run", "call")}
                        exact = seen["submit"] == 1 and seen["call"] == 3
                        return exact and min(seen["release"], seen["run"]) >= 3
    return False


def test_without_an_endpoint_nothing_of_it_is_even_imported() -> None:
    ours = ("opentelemetry.exporter", "opentelemetry.sdk.trace", "app.platform.traces")
    check = (
        "import sys, app.api.application, app.composition.dispatcher, app.composition.worker\n"
        "from app.composition.container import Container\n"
        "from app.settings import Settings\n"
        "assert not Container(Settings()).tracer.enabled\n"
        f"print([name for name in sys.modules if name.startswith({ours!r})])"
    )
    environment = {"PATH": "", "PYTHONPATH": str(Path(__file__).parents[2])}
    said = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True, env=environment
    )
    assert said.stdout == "[]\n"
