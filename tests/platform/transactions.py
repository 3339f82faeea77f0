"""What tests of transactions write, and threads to write it by."""

from collections.abc import Callable
from threading import Thread
from typing import Any

from sqlalchemy import Connection, text

from app.platform.database import Database
from app.tasks.store.tables import learned


def put(conn: Connection, name: str, figures: str = "{}") -> None:
    conn.execute(learned.insert().values(quota=name, figures=figures, updated_at=0.0))


def stored(database: Database) -> set[str]:
    return set(database.read(lambda conn: conn.execute(text("SELECT quota FROM learned")).scalars()))


def in_threads(*jobs: Callable[[], Any]) -> list[Any]:
    """Run the jobs at once; gives back what each returned or raised, in order."""
    outcomes: list[Any] = [None] * len(jobs)

    def run(number: int) -> None:
        try:
            outcomes[number] = jobs[number]()
        except Exception as error:  # noqa: BLE001 - it is the outcome
            outcomes[number] = error

    threads = [Thread(target=run, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return outcomes
