"""Memory of the API while 200 MB are uploaded to /v1/files: it should stay flat.

Resident memory of the API's processes together, looked at every 20 ms; the file is made up as it is sent, and read
back in the end.

    python benchmarks/bench_upload.py [--megabytes 200]
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import orjson
import psutil
import urllib3
from sqlalchemy import make_url

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.servers import PostgresServer, RedisServer
from tests.stack import Caller, Key, Stack, configuration, key_environment, wait_until

MB = 1_000_000
PIECE = 64 * 1024
MOST_GROWTH = (
    64  # MB: a third of the file; what is held of it is 1 MiB, the rest is the databases' own buffers
)
KEYS = [Key("main")]
_HEAD = (
    b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="large.bin"\r\n\r\n'
)
_TAIL = b"\r\n--x--\r\n"


class Memory:
    """The most that a process and its children have held, in bytes, since this began."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self.before = self.peak = self.now()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def now(self) -> int:
        """What they hold at this moment."""
        return sum(p.memory_info().rss for p in (self._process, *self._process.children(recursive=True)))

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.peak = max(self.peak, self.now())


def pieces(size: int) -> Iterator[bytes]:
    """A file's bytes, which nothing could pack."""
    block, left = hashlib.shake_256(b"penstock").digest(PIECE), size
    while left > 0:
        yield block[:left]
        left -= PIECE


def form(size: int) -> Iterator[bytes]:
    """The request's body."""
    yield _HEAD
    yield from pieces(size)
    yield _TAIL


def upload(caller: Caller, size: int) -> str:
    """Upload so many bytes; gives back the file's id."""
    headers = {
        "authorization": f"Bearer {caller.key}",
        "content-type": "multipart/form-data; boundary=x",
        "content-length": str(len(_HEAD) + size + len(_TAIL)),
    }
    answer = caller.pool.request(
        "POST", f"{caller.url}/v1/files", body=form(size), headers=headers, timeout=300, chunked=False
    )
    made = orjson.loads(answer.data)
    assert (answer.status, made.get("bytes")) == (200, size), made
    return str(made["id"])


def download(caller: Caller, file_id: str) -> bytes:
    """The SHA-256 of a file's content."""
    digest = hashlib.sha256()
    url = f"{caller.url}/v1/files/{file_id}/content"
    headers = {"authorization": f"Bearer {caller.key}"}
    answer: urllib3.BaseHTTPResponse = caller.pool.request(
        "GET", url, headers=headers, timeout=300, preload_content=False
    )
    for piece in answer.stream(PIECE):
        digest.update(piece)
    answer.release_conn()
    return digest.digest()


def measure(url: str, redis_url: str, folder: Path, size: int) -> float:
    """Upload and print; gives back by how many MB the memory grew."""
    config = configuration("http://127.0.0.1:9/v1", KEYS)
    with Stack(
        folder, config, database_url=url, redis_url=redis_url, environment=key_environment(KEYS)
    ) as stack:
        stack.penstock("db", "upgrade")
        api = stack.start("api", "api", "--port", str(stack.port))
        wait_until(stack.answers, within=40, what="API")
        upload(stack.admin, 2 * MB)  # code and connections are there from here on
        memory = Memory(api.pid)
        began = perf_counter()
        file_id = upload(stack.admin, size)
        seconds = perf_counter() - began
        memory.stop()
        expected = hashlib.sha256()
        for piece in pieces(size):
            expected.update(piece)
        assert download(stack.admin, file_id) == expected.digest(), "the file came back as another"
    grown = (memory.peak - memory.before) / MB
    print(
        f"{make_url(url).get_backend_name():<12} {size // MB} MB in {seconds:.1f} s   API before "
        f"{memory.before / MB:.0f} MB  peak {memory.peak / MB:.0f} MB  grown {grown:.0f} MB",
        flush=True,
    )
    return grown


def main() -> int:
    """Measure on both databases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="penstock-upload-") as temporary:
        folder = Path(temporary)
        redis, postgres = RedisServer(folder / "redis"), PostgresServer()
        try:
            size = options.megabytes * MB
            grown = [
                measure(postgres.create_database(), redis.url, folder / "postgresql", size),
                measure(f"sqlite:///{folder}/penstock.db", redis.url, folder / "sqlite", size),
            ]
        finally:
            redis.stop()
            postgres.stop()
    return 0 if max(grown) <= MOST_GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())
