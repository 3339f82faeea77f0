"""Callbacks end to end: a real Celery worker process on a real Redis, a real receiver, a real database."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from sqlalchemy import update

from app.callbacks.feed_callbacks import CallbackFeeder
from app.callbacks.store.callback_notifier import RedisCallbackNotifier
from app.cli.listen import Listener, Receipt
from app.execution.celery_app import make_celery
from app.platform.database import Database
from app.platform.ports import SystemClock
from app.platform.redis_scripts import Scripts, connect
from app.settings import Settings
from app.tasks.store.tables import callback
from tests.callbacks.world import SECRET, MovedClock, World
from tests.stack import Key, Stack, configuration, key_environment, wait_until

KEYS = [Key("k1")]


class Service:
    """A callback worker's surroundings."""

    def __init__(self, stack: Stack, database_url: str, redis_url: str) -> None:
        self.stack = stack
        self.database = Database(database_url)
        self.clock = SystemClock()
        scripts = Scripts(connect(redis_url, timeout=60))
        self.bell = RedisCallbackNotifier(scripts, make_celery(Settings(redis_url=redis_url)), self.clock)
        self.feeder = CallbackFeeder(self.database, self.bell, self.clock)
        rows_time = MovedClock()
        rows_time.at = self.clock.now()
        self.world = World(self.database, clock=rows_time)
        self.world.add_task()

    def start(self, name: str = "callbacks") -> None:
        self.stack.start(name, "callback-worker", "--name", name)

    def add(self, count: int, url: str) -> list[str]:
        return self.world.add_callbacks([f"evt_{number}" for number in range(count)], url)

    def statuses(self, ids: list[str]) -> set[str]:
        return self.world.statuses(ids)

    def tick_until(self, done: Callable[[], bool], what: str) -> None:
        def look() -> bool:
            self.feeder.tick()
            return done()

        wait_until(look, what=f"{what}\n{self.stack.logs()}", every=0.2)


@pytest.fixture
def receiver_allowed() -> str:
    return '[callbacks]\nallow_networks = ["127.0.0.1"]\nports = ["1024-65535"]\n'


@pytest.fixture
def service(tmp_path: Path, redis_url: str, sqlite_url: str, receiver_allowed: str) -> Iterator[Service]:
    config = configuration("http://127.0.0.1:9/v1", KEYS, more=receiver_allowed)
    environment = key_environment(KEYS)
    with Stack(
        tmp_path / "stack", config, database_url=sqlite_url, redis_url=redis_url, environment=environment
    ) as stack:
        stack.penstock("db", "upgrade")
        service = Service(stack, sqlite_url, redis_url)
        yield service
        service.database.close()


def test_a_worker_delivers_what_is_rung_and_touches_no_key_queue(service: Service, redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    client.lpush("key.k1", b"not for a callback worker")
    with Listener([SECRET]) as listener:
        ids = service.add(50, listener.url)
        service.start()
        assert not service.bell.notify(ids)
        wait_until(lambda: service.statuses(ids) == {"delivered"}, what=service.stack.logs("callbacks"))
        assert sorted(str(receipt.id) for receipt in listener.receipts) == sorted(ids)
        assert all(receipt.verified for receipt in listener.receipts)
    assert client.llen("key.k1") == 1
    assert service.stack.kill("callbacks", 15) == 0


def test_kill_9_between_sending_and_recording_gives_a_second_delivery_under_the_same_id(
    service: Service,
) -> None:
    held, killed = threading.Event(), threading.Event()

    def hold_the_first(receipt: Receipt) -> int:
        if not killed.is_set():
            held.set()
            killed.wait(120)
        return 200

    with Listener([SECRET], status=hold_the_first) as listener:
        ids = service.add(1, listener.url)
        service.start()
        service.bell.notify(ids)
        assert held.wait(120), service.stack.logs()
        service.stack.kill("callbacks")
        killed.set()
        assert service.statuses(ids) == {"delivering"}
        _age_claims(service.database, 61)
        service.start("callbacks-2")
        service.tick_until(lambda: service.statuses(ids) == {"delivered"}, "the second delivery")
        assert [receipt.id for receipt in listener.receipts] == ids * 2
        assert all(receipt.verified for receipt in listener.receipts)


def test_flushall_loses_no_callback(service: Service, redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    with Listener([SECRET]) as listener:
        ids = service.add(20, listener.url)
        service.feeder.tick()
        assert client.llen("callbacks") == 20
        client.flushall()
        _let_rings_lapse(service.database)
        service.start()
        service.tick_until(lambda: service.statuses(ids) == {"delivered"}, "deliveries after FLUSHALL")


class TestWithoutPermission:
    """As every installation begins."""

    @pytest.fixture
    def receiver_allowed(self) -> str:
        return ""

    def test_a_receiver_on_loopback_is_refused_and_the_log_names_the_setting(self, service: Service) -> None:
        with Listener([SECRET], port=0) as listener:
            ids = service.add(1, "http://127.0.0.1:8000/")
            service.start()
            service.bell.notify(ids)
            wait_until(lambda: service.statuses(ids) == {"failed"}, what=service.stack.logs())
            assert "callbacks.allow_networks" in str(service.world.callback(ids[0]).last_error)
            assert listener.receipts == []


def _age_claims(database: Database, seconds: float) -> None:
    """Move time for the rows instead of waiting."""
    older = update(callback).values(claimed_at=callback.c.claimed_at - seconds)
    database.write(lambda conn: conn.execute(older))


def _let_rings_lapse(database: Database) -> None:
    database.write(lambda conn: conn.execute(update(callback).values(ring_at=0)))
