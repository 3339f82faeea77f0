"""The HTTP client of the commands, over a socket: large bodies are packed, packed answers unpacked."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import orjson
import pytest

from app.cli.remote import Remote
from tests.upstreams.wire import Peer, WireServer, answer


@pytest.mark.parametrize(("lines", "packed"), [(1, False), (20_000, True)])
def test_large_bodies_are_sent_packed_and_whole(lines: int, packed: bool) -> None:
    sent = [b'{"prompt":"number %d"}\n' % number for number in range(lines)]
    seen: list[tuple[dict[str, str], bytes]] = []

    def serve(peer: Peer) -> None:
        peer._file.readline()
        headers = {}
        while (line := peer._file.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        body = b"".join(chunks(peer))
        seen.append((headers, body))
        peer.send(answer(gzip.compress(b'{"id":"batch_1"}'), "200 OK", "content-encoding: gzip"))

    def chunks(peer: Peer) -> Iterator[bytes]:
        while size := int(peer._file.readline(), 16):
            yield peer._file.read(size + 2)[:-2]

    with WireServer(serve) as server:
        assert Remote(server.url, "pk_1").send_lines("/v1/batch", iter(sent), "k") == {"id": "batch_1"}
    ((headers, body),) = seen
    assert (headers.get("content-encoding") == "gzip") is packed
    assert headers["accept-encoding"] == "gzip"
    assert (gzip.decompress(body) if packed else body) == b"".join(sent)
    assert not packed or len(body) < len(b"".join(sent)) / 3


def test_results_are_asked_for_packed() -> None:
    rows = b"".join(orjson.dumps({"index": number}) + b"\n" for number in range(5000))
    with WireServer(lambda peer: _answer(peer, rows)) as server:
        assert b"".join(Remote(server.url, "pk_1").stream("/v1/batch/b/results")) == rows


def _answer(peer: Peer, rows: bytes) -> None:
    _, headers, _ = peer.read_request() or ("", {}, b"")
    assert headers["accept-encoding"] == "gzip"
    peer.send(answer(gzip.compress(rows), "200 OK", "content-encoding: gzip"))
