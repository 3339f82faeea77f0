"""Raw bytes at every entrance: nothing answers 500, and nothing costs more than half a second of CPU.

`make fuzz` goes on for ten minutes with examples of its own.
"""

import gzip
import json
import os
import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.world import ADMIN_KEY, MODEL, World

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
MOST_CPU = 0.5  # seconds
LINE = {
    "custom_id": "a",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": MODEL, "messages": []},
}
SEEDS = [
    json.dumps(seed).encode()
    for seed in (
        {"prompt": "a", "model": MODEL, "parameters": {"temperature": 0.5}, "metadata": {"a": "b"}},
        {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "é\ud83d"}]}],
            "model": MODEL,
            "n": 2,
        },
        {"requests": [{"prompt": "a"}, {"prompt": "b", "custom_id": "x"}], "model": MODEL},
        LINE,
        [LINE, LINE],
    )
]
PARTS = [
    b"[" * 500,
    b"{" * 500,
    b'"',
    b"\\ud800",
    b"\x00",
    b"\xff\xfe",
    b"1e999",
    b"-0",
    b"NaN",
    b",",
    b"\n\n",
    b"\r",
]
ENTRANCES = [
    ("/v1/tasks", "application/json"),
    ("/v1/batch", "application/json"),
    ("/v1/batch", "application/x-ndjson"),
    ("/v1/estimates", "application/json"),
    ("/v1/files", "multipart/form-data; boundary=x"),
    ("/v1/batches", "application/json"),
]
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n%b\r\n--x--\r\n'
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A valid body of some entrance, cut, repeated and spliced with what parsers stumble over; or any bytes."""
    body = draw(st.sampled_from(SEEDS) | st.binary(max_size=64))
    for _ in range(draw(st.integers(0, 4))):
        at, end = sorted((draw(st.integers(0, len(body))), draw(st.integers(0, len(body)))))
        part = draw(st.sampled_from(PARTS) | st.binary(max_size=8) | st.just(body[at:end] * 3))
        body = body[:at] + part + body[draw(st.sampled_from([at, end])) :]
    return draw(st.sampled_from([body, body * 20, body[:-1], FORM % body, FORM[:-4] % body]))


def fuzzed(world: World, entrance: tuple[str, str], body: bytes, packing: str) -> None:
    """Send it once and look at the answer and what it cost."""
    path, kind = entrance
    packed = {"": body, "gzip": gzip.compress(body), "cut": gzip.compress(body)[:-5], "raw": body}[packing]
    headers = {"Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": kind}
    if packing:
        headers["Content-Encoding"] = "gzip"
    began = time.thread_time()
    answer = world.app.test_client().post(path, data=packed, headers=headers)
    cost = time.thread_time() - began
    assert answer.status_code < 500 or answer.status_code == 503, (entrance, body, answer.data)
    assert cost < MOST_CPU, (entrance, body, cost)
    if answer.status_code >= 400:
        assert json.loads(answer.data)["error"]["message"]


@settings(
    max_examples=500 if SECONDS else 150,
    derandomize=not SECONDS,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)
@given(
    entrance=st.sampled_from(ENTRANCES),
    body=bodies(),
    packing=st.sampled_from(["", "", "gzip", "cut", "raw"]),
)
def run(world: World, entrance: tuple[str, str], body: bytes, packing: str) -> None:
    fuzzed(world, entrance, body, packing)


def test_any_bytes_are_answered_cheaply_and_in_the_envelope(world: World) -> None:
    until = time.monotonic() + SECONDS / 2  # there are two databases
    run(world)
    while time.monotonic() < until:
        run(world)
