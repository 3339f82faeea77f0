"""Taking in 50,000 lines over HTTP against SQLAlchemy Core's bulk insert of the same rows, as a ratio of speeds.

Two ways in: JSON lines to /v1/batch, answered when all are stored; and a file with a batch over it (/v1/files,
/v1/batches), timed until the batch is in progress. In turn, on one database of growing size; 1.00 is as fast as Core,
which is given finished dictionaries and checks nothing.

    python -m benchmarks.bench_intake [--quick] [--rows 50000] [--rounds 3]
"""

from __future__ import annotations

import sys
from statistics import median
from time import perf_counter, sleep

import orjson

from app.platform.database import Database
from benchmarks.bench_inserts import REQUEST, drafts, plainly
from benchmarks.frame import Record, options, ratios, recorded, spread
from benchmarks.ground import Ground, ground
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


Turn = tuple[float, float, float]
"""Seconds of one turn: Core, JSON lines, a file."""


def turns(base: Ground, kind: str, rows: int, rounds: int) -> list[Turn]:
    """Let Core and both ways in take turns."""
    url = base.database(kind)
    config = configuration("http://127.0.0.1:9/v1", KEYS)  # nothing is asked: there is no dispatcher
    with Stack(
        base.scratch(kind),
        config,
        database_url=url,
        redis_url=base.redis.url,
        environment=key_environment(KEYS),
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
                plainly(database, url, drafts(rows)),
                by_lines(caller, native, rows),
                by_file(caller, files, rows),
            )
            for _ in range(rounds)
        ]
        database.close()
    base.empty_redis()
    return taken


def tell(record: Record, kind: str, rows: int, taken: list[Turn]) -> bool:
    """Put both ways in into the record; whether both reach the aim."""
    plain, *ways = ([turn[at] for turn in taken] for at in range(3))
    good = True
    for name, own in zip(("/v1/batch", "/v1/batches"), ways, strict=True):
        ratio = ratios(plain, own)
        met = median(ratio) >= AIM
        good = good and met
        record.aim(
            f"intake of {rows:,} lines by {name}, {kind}",
            "the same SQLAlchemy Core bulk insert",
            f"{AIM} of its speed",
            spread(ratio),
            met,
        )
    record.table(
        f"{rows:,} lines, {kind}, seconds",
        ["Core, finished dictionaries", "/v1/batch, JSON lines", "/v1/files and /v1/batches"],
        [[spread(column) for column in (plain, *ways)]],
    )
    return good


def main() -> int:
    """Compare on both databases."""
    told = options(__doc__, rows=(50_000, 5_000), rounds=(3, 1))
    with recorded("intake", "Batch intake", quick=told.quick) as record, ground("intake") as base:
        found = [
            tell(record, kind, told.rows, turns(base, kind, told.rows, told.rounds))
            for kind in ("postgresql", "sqlite")
        ]
    return 0 if all(found) else 1


if __name__ == "__main__":
    sys.exit(main())
