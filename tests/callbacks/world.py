"""What a callback meets on its way, as small fakes with state around a real database."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import create_engine, insert, select, update
from standardwebhooks.webhooks import Webhook

from app.callbacks.callback_http import HostConcurrencyLimiter, HostLimits
from app.callbacks.dead_letters import DeadLetters
from app.callbacks.deliver_callback import CallbackDelivery
from app.callbacks.domain.callback import DeliveryReply, SignedCallback
from app.callbacks.feed_callbacks import CallbackFeeder
from app.composition.schema import metadata
from app.platform.database import Database
from app.platform.engines import parse_url
from app.tasks.store.tables import batch, callback, client, delivery, task, task_content

START = 1_800_000_000.0
SECRET = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVoxMjM0NTY="
STRANGER = "whsec_" + "MTIzNDU2NzhBQkNERUZHSElKS0xNTk9QUVJTVFVWV1g="


class MovedClock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.at = START

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    def move(self, seconds: float) -> None:
        self.at += seconds


class Receivers:
    """A courier whose receivers answer by URL, 200 unless told otherwise; `sent` is what they got."""

    def __init__(self) -> None:
        self.sent: list[SignedCallback] = []
        self.answers: dict[str, DeliveryReply | Callable[[SignedCallback], DeliveryReply]] = {}
        self._lock = threading.Lock()

    def send(self, parcel: SignedCallback) -> DeliveryReply:
        with self._lock:
            self.sent.append(parcel)
        answer = self.answers.get(parcel.url, DeliveryReply(200))
        return answer(parcel) if callable(answer) else answer

    def close(self) -> None:
        """Keeps nothing open."""

    def ids(self) -> list[str]:
        return [parcel.headers["webhook-id"] for parcel in self.sent]


class Bell:
    """A queue of ids with room for some."""

    def __init__(self, most: int = 5000) -> None:
        self.queued: list[str] = []
        self.most = most
        self.silent = False

    def room(self) -> int:
        return 0 if self.silent else self.most - len(self.queued)

    def notify(self, callback_ids: Sequence[str]) -> Sequence[str]:
        if self.silent:
            return callback_ids
        self.queued += callback_ids
        return ()

    def take(self) -> list[str]:
        taken, self.queued = self.queued, []
        return taken


@dataclass
class World:
    """A database and everything that moves callbacks in it."""

    database: Database
    clock: MovedClock = field(default_factory=MovedClock)
    receivers: Receivers = field(default_factory=Receivers)
    bell: Bell = field(default_factory=Bell)
    limits: HostLimits = field(default_factory=HostLimits)
    chance: float = 0.5  # in the middle: waits are exactly the schedule's

    def __post_init__(self) -> None:
        self.delivery = self.another_process()
        self.feeder = CallbackFeeder(self.database, self.bell, self.clock)
        self.dead = DeadLetters(self.database, self.bell, self.clock)
        for name in ("alice", "bob"):
            row = {"id": name, "callback_secret": SECRET, "created_at": START}
            self.database.write(lambda conn, row=row: conn.execute(insert(client).values(row)))

    def another_process(
        self, courier: object | None = None, guard: HostConcurrencyLimiter | None = None
    ) -> CallbackDelivery:
        return CallbackDelivery(
            self.database,
            courier or self.receivers,  # type: ignore[arg-type]
            guard or HostConcurrencyLimiter(self.clock, self.limits),
            self.clock,
            worker="w1",
            chance=lambda: self.chance,
            pause=self.clock.move,
            public_url="https://penstock.example",
        )

    def run(self) -> int:
        """One tick of the leader, and everything that it rang, delivered."""
        self.feeder.tick()
        notified = self.bell.take()
        for callback_id in notified:
            self.delivery.deliver(callback_id)
        return len(notified)

    def add_callback(
        self, callback_id: str = "evt_1", url: str = "https://receiver.example/hook", **values: object
    ) -> str:
        self.add_callbacks([callback_id], url, **values)
        return callback_id

    def add_callbacks(
        self, ids: Sequence[str], url: str = "https://receiver.example/hook", **values: object
    ) -> list[str]:
        """Many at once; a value that is a list gives each its own."""
        row = {
            "client_id": "alice",
            "task_id": "task_1",
            "type": "task.succeeded",
            "url": url,
            "status": "pending",
            "next_at": self.clock.now(),
            "created_at": START,
            **values,
        }
        rows = [
            {"id": id_, **{name: v[at] if isinstance(v, list) else v for name, v in row.items()}}
            for at, id_ in enumerate(ids)
        ]
        self.database.write(lambda conn: conn.execute(insert(callback), rows))
        return list(ids)

    def add_task(
        self, task_id: str = "task_1", result: str | None = '{"id":"r","n":1.0}', **values: object
    ) -> str:
        row = {
            "id": task_id,
            "client_id": "alice",
            "model": "m",
            "queue": "backlog.m.alice",
            "step": 3,
            "status": "succeeded",
            "estimate": 10,
            "created_at": START - 10,
            "available_at": START - 10,
            "expires_at": START + 1000,
            "started_at": START - 5,
            "finished_at": START,
            "attempts": 1,
            "prompt_tokens": 3,
            "completion_tokens": 4,
            "callback_url": "https://receiver.example/hook",
            "metadata": '{"order":"17"}',
            **values,
        }

        def write(conn):  # type: ignore[no-untyped-def]
            conn.execute(insert(task).values(row))
            seq = conn.execute(select(task.c.seq).where(task.c.id == task_id)).scalar_one()
            conn.execute(insert(task_content).values(seq=seq, request="{}", result=result))

        self.database.write(write)
        return task_id

    def add_batch(self, batch_id: str = "batch_1", **values: object) -> str:
        row = {
            "id": batch_id,
            "client_id": "alice",
            "status": "completed",
            "total": 3,
            "completed": 2,
            "failed": 1,
            "created_at": START,
            "completed_at": START + 5,
            "callback_url": "https://receiver.example/hook",
            **values,
        }
        self.database.write(lambda conn: conn.execute(insert(batch).values(row)))
        return batch_id

    def callback(self, callback_id: str = "evt_1"):  # type: ignore[no-untyped-def]
        """The row."""
        wanted = select(callback).where(callback.c.id == callback_id)
        return self.database.read(lambda conn: conn.execute(wanted).one())

    def statuses(self, ids: Sequence[str]) -> set[str]:
        """The states that these have."""
        wanted = select(callback.c.status).where(callback.c.id.in_(ids))
        return set(self.database.read(lambda conn: conn.execute(wanted).scalars().all()))

    def deliveries(self, callback_id: str = "evt_1") -> list[tuple[int, int | None, str | None]]:
        """The log: (number, status, error)."""
        wanted = (
            select(delivery.c.number, delivery.c.status_code, delivery.c.error)
            .where(delivery.c.callback_id == callback_id)
            .order_by(delivery.c.seq)
        )
        return [tuple(row) for row in self.database.read(lambda conn: conn.execute(wanted).all())]

    def set_client(self, **values: object) -> None:
        statement = update(client).where(client.c.id == "alice").values(values)
        self.database.write(lambda conn: conn.execute(statement))


def verifies(parcel: SignedCallback, secret: str, now: float) -> bool:
    """What a receiver's own library says; its clock is set to ours by hand, it knows no other way."""
    headers = {name: value for name, value in parcel.headers.items() if name.startswith("webhook-")}
    from datetime import UTC, datetime

    moment = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    assert abs(moment.timestamp() - now) < 1
    expected = Webhook(secret).sign(headers["webhook-id"], moment, parcel.body.decode())
    return expected in headers["webhook-signature"].split(" ")


def create_tables(url: str) -> None:
    """All tables, straight from their definition."""
    engine = create_engine(parse_url(url))
    metadata.create_all(engine)
    engine.dispose()
