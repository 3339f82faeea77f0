"""Storing 50,000 tasks: ours against SQLAlchemy Core's bulk insert of the same rows, as a ratio of seconds.

python -m benchmarks.bench_inserts [--rows 50000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from statistics import median
from time import perf_counter

from sqlalchemy import Connection, Engine, create_engine, insert

from app.platform.database import Database
from app.platform.dialects import reserve
from app.platform.migrate import upgrade
from app.tasks.domain.rows import NewTask
from app.tasks.domain.task import Status, new_id
from app.tasks.store.submissions import insert_tasks
from app.tasks.store.tables import task, task_content
from tests.servers import PostgresServer

NOW = 1_800_000_000.0
REQUEST = '{"messages":[{"role":"user","content":"' + "Say hello to the world. " * 12 + '"}]}'


def drafts(count: int) -> list[NewTask]:
    """Rows of one batch, such as the API drafts them."""
    return [
        NewTask(
            id=new_id("task", NOW),
            client_id="alice",
            model="deepseek-flash",
            queue="backlog.deepseek-flash.alice",
            step=3,
            estimate=500,
            created_at=NOW,
            available_at=NOW,
            expires_at=NOW + 86_400,
            request=REQUEST,
            batch_id="batch_1",
            batch_index=index,
            custom_id=f"line-{index}",
        )
        for index in range(count)
    ]


@cache
def plain_engine(url: str) -> Engine:
    """As one would make it."""
    return create_engine(url)


def plainly(database: Database, url: str, rows: Sequence[NewTask]) -> float:
    """What one would write first. Gives back seconds; the dictionaries are made before the clock runs.

    On PostgreSQL by an engine with the library's own settings; on SQLite by ours, as durable as the service.
    """
    numbers = database.write(lambda conn: reserve(conn, task, len(rows)))
    tasks = [
        {"seq": seq, "status": Status.QUEUED, **asdict(row)} for seq, row in zip(numbers, rows, strict=True)
    ]
    contents = [{"seq": row["seq"], "request": row.pop("request")} for row in tasks]

    def store(conn: Connection) -> None:
        conn.execute(insert(task), tasks)
        conn.execute(insert(task_content), contents)

    if database.dialect == "sqlite":
        return seconds(database, store)
    began = perf_counter()
    with plain_engine(url).begin() as conn:
        store(conn)
    return perf_counter() - began


def ours(database: Database, rows: Sequence[NewTask]) -> float:
    """What the service does. Gives back seconds."""
    return seconds(database, lambda conn: insert_tasks(conn, rows))


def seconds(database: Database, store: Callable[[Connection], object]) -> float:
    """How long a transaction takes."""
    began = perf_counter()
    database.write(store)
    return perf_counter() - began


def compare(url: str, rows: int, rounds: int) -> None:
    """Take turns, so that both meet tables of the same size."""
    upgrade(url)
    database = Database(url)
    taken = [(plainly(database, url, drafts(rows)), ours(database, drafts(rows))) for _ in range(rounds)]
    database.close()
    plain, own = (median(column) for column in zip(*taken, strict=True))
    print(f"{database.dialect:<12} plain {plain:.2f} s   ours {own:.2f} s   ratio {own / plain:.2f}")


def main() -> None:
    """Compare on both databases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(f"sqlite:///{Path(folder)}/penstock.db", arguments.rows, arguments.rounds)
    server = PostgresServer()
    try:
        compare(server.create_database(), arguments.rows, arguments.rounds)
    finally:
        server.stop()


if __name__ == "__main__":
    main()
