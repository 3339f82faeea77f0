"""Taking in 50,000 lines over HTTP against SQLAlchemy Core's bulk insert of the same rows, as a ratio of speeds.

Two ways in: JSON lines to /v1/batch, answered when all are stored; and a file with a batch over it (/v1/files,
/v1/batches), timed until the batch is in progress. In turn, on one database of growing size; 1.00 is as fast as Core,
which is given finished dictionaries and checks nothing.

    python benchmarks/bench_intake.py [--rows 50000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

import orjson

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.db.database import Database
from benchmarks.bench_inserts import REQUEST, drafts, plainly
from tests.servers import PostgresServer, RedisServer
from tests.stack import Caller, Key, Stack, configuration, key_environment, wait_until

KEYS = [Key("main")]
MESSAGES = orjson.loads(REQUEST)["messages"]
AIM = 0.5
_FIELD = b'--x\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'


def native_lines(rows: int) -> bytes:
    """What /v1/batch takes."""
    return b"\n".join(orjson.dumps({"custom_id": f"line-{n}", "messages": MESSAGES}) for n in range(rows))


def file_lines(rows: int) -> bytes:
    """What OpenAI's Batch API takes."""
    body = {"model": "deepseek-flash", "messages": MESSAGES}
    url = "/v1/chat/completions"
    return b"\n".join(
        orjson.dumps({"custom_id": f"line-{n}", "method": "POST", "url": url, "body": body})
        for n in range(rows)
    )


def by_lines(caller: Caller, lines: bytes, rows: int) -> float:
    """Seconds until JSON lines were answered: all of them are stored then."""
    began = perf_counter()
    answer = caller.call("POST", "/v1/batch", lines, content_type="application/x-ndjson")
    taken = perf_counter() - began
    assert answer.status == 202, answer
    assert answer.body["request_counts"]["total"] == rows, answer.body["request_counts"]
    return taken


def by_file(caller: Caller, lines: bytes, rows: int) -> float:
    """Seconds from the upload's begin until the batch over it is in progress."""
    form = _FIELD % (b"purpose", b"", b"batch")
    form += _FIELD % (b"file", b'; filename="lines.jsonl"', lines) + b"--x--\r\n"
    began = perf_counter()
    uploaded = caller.call("POST", "/v1/files", form, content_type="multipart/form-data; boundary=x")
    assert uploaded.status == 200, uploaded
    wish = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = caller.call("POST", "/v1/batches", {"input_file_id": uploaded.body["id"], **wish}).body
    path = f"/v1/batches/{batch['id']}"
    while (seen := caller.call("GET", path).body)["status"] == "validating":
        sleep(0.05)
    taken = perf_counter() - began
    assert (seen["status"], seen["request_counts"]["total"]) == ("in_progress", rows), seen
    return taken


def compare(url: str, redis_url: str, folder: Path, rows: int, rounds: int) -> list[float]:
    """Take turns, print a line for each way in; gives back the ratios."""
    config = configuration("http://127.0.0.1:9/v1", KEYS)  # nothing is asked: there is no dispatcher
    with Stack(
        folder, config, database_url=url, redis_url=redis_url, environment=key_environment(KEYS)
    ) as stack:
        stack.penstock("db", "upgrade")
        stack.start("api", "api", "--port", str(stack.port))
        caller = stack.admin
        wait_until(stack.answers, within=40, what="API")
        database = Database(url)
        native, files = native_lines(rows), file_lines(rows)
        by_lines(caller, native_lines(100), 100)  # connections, caches and code are warm from here on
        taken = [
            (
                plainly(database, drafts(rows)),
                by_lines(caller, native, rows),
                by_file(caller, files, rows),
            )
            for _ in range(rounds)
        ]
        database.close()
    return [told(database.dialect, name, taken, at) for at, name in ((1, "/v1/batch"), (2, "/v1/batches"))]


def told(dialect: str, name: str, taken: list[tuple[float, float, float]], at: int) -> float:
    """Print one way in; gives back its ratio."""
    ratios = sorted(turn[0] / turn[at] for turn in taken)
    plain, own = median(turn[0] for turn in taken), median(turn[at] for turn in taken)
    print(
        f"{dialect:<12} {name:<12} Core {plain:.2f} s  over HTTP {own:.2f} s  "
        f"ratio {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})  aim {AIM}",
        flush=True,
    )
    return median(ratios)


def main() -> int:
    """Compare on both databases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    measure: Callable[[str, str, Path], list[float]] = lambda url, redis_url, folder: compare(  # noqa: E731
        url, redis_url, folder, options.rows, options.rounds
    )
    with tempfile.TemporaryDirectory(prefix="penstock-intake-") as temporary:
        folder = Path(temporary)
        redis, postgres = RedisServer(folder / "redis"), PostgresServer()
        try:
            ratios = measure(postgres.create_database(), redis.url, folder / "postgresql")
            ratios += measure(f"sqlite:///{folder}/penstock.db", redis.url, folder / "sqlite")
        finally:
            redis.stop()
            postgres.stop()
    return 0 if min(ratios) >= AIM else 1


if __name__ == "__main__":
    sys.exit(main())
