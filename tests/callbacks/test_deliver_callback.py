"""One callback's life: claimed, sent, recorded, tried again, given up, brought back."""

import json
import threading
import time

import pytest

from app.callbacks.callback_settings import rotate_callback_secret
from app.callbacks.domain.callback import SCHEDULE, DeliveryReply, SignedCallback
from app.callbacks.store import callbacks
from app.callbacks.store.callbacks import DeliveryRecord
from app.platform.domain.errors import DatabaseUnreachable, NotFound
from app.tasks.domain.task import CallbackState
from app.tasks.store.tasks import deliveries_of
from tests.callbacks.world import SECRET, START, STRANGER, World, verifies

URL = "https://receiver.example/hook"


@pytest.fixture
def told(world: World) -> World:
    """A task that has ended, and the callback about it."""
    world.add_task()
    world.add_callback()
    return world


def test_a_due_callback_is_delivered_once_and_logged(told: World) -> None:
    assert told.run() == 1
    assert told.run() == 0
    assert told.callback().status == "delivered"
    assert told.deliveries() == [(1, 200, None)]
    assert len(told.receivers.sent) == 1


def test_the_body_is_the_event_with_the_task_as_the_api_shows_it(told: World) -> None:
    told.run()
    body = json.loads(told.receivers.sent[0].body)
    data = body.pop("data")
    assert body == {
        "id": "evt_1",
        "object": "event",
        "type": "task.succeeded",
        "created_at": "2027-01-15T08:00:00.000Z",
    }
    assert data["id"] == "task_1"
    assert data["result"] == {"id": "r", "n": 1.0}
    assert data["usage"]["total_tokens"] == 7
    assert data["metadata"] == {"order": "17"}
    assert data["callback"] == {"url": URL, "status": "delivering"}
    assert "request" not in json.dumps(data)


def test_a_result_above_256_kib_is_a_url(world: World) -> None:
    world.add_task(result=json.dumps({"text": "é" * 140_000}, ensure_ascii=False))
    world.add_callback()
    world.run()
    data = json.loads(world.receivers.sent[0].body)["data"]
    assert data["result"] is None
    assert data["result_url"] == "https://penstock.example/v1/tasks/task_1"
    assert len(world.receivers.sent[0].body) < 2000


def test_a_result_just_below_256_kib_is_sent(world: World) -> None:
    world.add_task(result=json.dumps({"text": "x" * (256 * 1024 - 20)}))
    world.add_callback()
    world.run()
    assert len(json.loads(world.receivers.sent[0].body)["data"]["result"]["text"]) == 256 * 1024 - 20


def test_a_batch_has_one_event_of_its_own(world: World) -> None:
    world.add_batch()
    world.add_callback(task_id=None, batch_id="batch_1", type="batch.completed")
    world.run()
    body = json.loads(world.receivers.sent[0].body)
    assert body["type"] == "batch.completed"
    assert body["data"]["id"] == "batch_1"
    assert body["data"]["request_counts"] == {"total": 3, "completed": 2, "failed": 1}


def test_the_signature_is_right_to_the_receivers_own_library(told: World) -> None:
    told.run()
    parcel = told.receivers.sent[0]
    assert verifies(parcel, SECRET, told.clock.now())
    assert not verifies(parcel, STRANGER, told.clock.now())
    assert parcel.headers["Content-Type"] == "application/json"


def test_all_tries_follow_the_schedule_under_one_id_and_then_it_is_a_dead_letter(told: World) -> None:
    told.receivers.answers[URL] = DeliveryReply(500)
    for number, wait in enumerate(SCHEDULE, 1):
        told.clock.move(wait - 1 if wait else 0)
        assert told.run() == (0 if wait else 1), f"try {number} came early"
        if wait:
            told.clock.move(1)
            assert told.run() == 1, f"try {number} did not come"
    assert told.callback().status == "failed"
    assert told.receivers.ids() == ["evt_1"] * 10
    assert len({parcel.body for parcel in told.receivers.sent}) == 1
    assert [number for number, _, _ in told.deliveries()] == list(range(1, 11))
    told.clock.move(10 * 86400)
    assert told.run() == 0


def test_410_is_a_dead_letter_at_once_with_its_reason(told: World) -> None:
    told.receivers.answers[URL] = DeliveryReply(410)
    told.run()
    assert told.callback().status == "failed"
    assert told.dead.list_dead("alice")[0].reason == "410: the receiver wants no more"


def test_retry_after_is_kept(told: World) -> None:
    told.receivers.answers[URL] = DeliveryReply(503, {"retry-after": "400"})
    told.run()
    told.clock.move(399)
    assert told.run() == 0
    told.receivers.answers.clear()
    told.clock.move(30)
    assert told.run() == 1
    assert told.callback().status == "delivered"


def test_a_refused_url_is_a_dead_letter_that_says_why(told: World) -> None:
    told.receivers.answers[URL] = DeliveryReply(error="port 22 is refused", hopeless=True, sent=False)
    told.run()
    assert told.callback().last_error == "port 22 is refused"
    assert told.callback().status == "failed"


def test_a_task_that_is_gone_is_a_dead_letter(world: World) -> None:
    world.add_callback()
    world.run()
    assert world.receivers.sent == []
    assert world.callback().status == "failed"


def test_two_processes_that_hear_the_same_bell_deliver_once(told: World) -> None:
    other = told.another_process()
    told.receivers.answers[URL] = lambda parcel: (other.deliver("evt_1"), DeliveryReply(200))[1]
    told.delivery.deliver("evt_1")
    assert len(told.receivers.sent) == 1


def test_many_threads_that_hear_the_same_bell_deliver_once(told: World) -> None:
    threads = [threading.Thread(target=told.another_process().deliver, args=("evt_1",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told.receivers.sent) == 1
    assert told.callback().tries == 1


def test_a_second_bell_does_not_hurry_a_retry(told: World) -> None:
    told.receivers.answers[URL] = DeliveryReply(500)
    told.delivery.deliver("evt_1")
    told.delivery.deliver("evt_1")
    assert len(told.receivers.sent) == 1


def test_an_unknown_id_is_nothing(world: World) -> None:
    world.delivery.deliver("evt_unknown")
    assert world.receivers.sent == []


class Killed(BaseException):
    """kill -9, as far as Python can play it."""


def _die(parcel: SignedCallback) -> DeliveryReply:
    raise Killed


def test_a_crash_between_sending_and_recording_gives_a_second_delivery_under_the_same_id(told: World) -> None:
    told.receivers.answers[URL] = _die
    with pytest.raises(Killed):
        told.delivery.deliver("evt_1")
    assert told.callback().status == "delivering"
    told.receivers.answers.clear()
    told.delivery = told.another_process()
    told.clock.move(59)
    assert told.run() == 0
    told.clock.move(2)
    assert told.run() == 1
    assert told.receivers.ids() == ["evt_1", "evt_1"]
    assert told.callback().status == "delivered"
    assert [(number, code) for number, code, _ in told.deliveries()] == [(1, None), (2, 200)]


def test_a_clock_set_back_does_not_hold_a_lost_claim(told: World) -> None:
    told.receivers.answers[URL] = _die
    with pytest.raises(Killed):
        told.delivery.deliver("evt_1")
    told.clock.move(-3600)
    told.feeder.tick()
    assert told.callback().status == "pending"


def test_a_success_that_is_recorded_late_still_counts(told: World) -> None:
    claimed = told.database.write(lambda c: callbacks.claim_callback(c, "evt_1", "w1", START))
    assert claimed is not None
    told.database.write(lambda c: callbacks.revive(c, START + 1, START + 61))
    record = DeliveryRecord("evt_1", 1, "h:1", CallbackState.DELIVERED, START, START + 70, 200)
    assert told.database.write(lambda c: callbacks.record_delivery(c, record))
    assert told.callback().status == "delivered"


@pytest.mark.parametrize("state", [CallbackState.DELIVERED, CallbackState.PENDING, CallbackState.FAILED])
def test_nobody_records_what_another_has_claimed_since(told: World, state: CallbackState) -> None:
    told.database.write(lambda c: callbacks.claim_callback(c, "evt_1", "w1", START))
    told.database.write(lambda c: callbacks.revive(c, START + 1, START + 61))
    assert told.database.write(lambda c: callbacks.claim_callback(c, "evt_1", "w2", START + 62))
    record = DeliveryRecord("evt_1", 1, "h:1", state, START, START + 70, 200, next_at=START + 99)
    assert not told.database.write(lambda c: callbacks.record_delivery(c, record))
    assert told.callback().status == "delivering"


def test_a_failure_recorded_late_changes_nothing(told: World) -> None:
    told.database.write(lambda c: callbacks.claim_callback(c, "evt_1", "w1", START))
    told.database.write(lambda c: callbacks.revive(c, START + 1, START + 61))
    record = DeliveryRecord("evt_1", 1, "h:1", CallbackState.FAILED, START, START + 70, 410)
    assert not told.database.write(lambda c: callbacks.record_delivery(c, record))
    assert told.callback().status == "pending"


class Flaky:
    """A database that is away for the next writes, and counts how often it was asked."""

    def __init__(self, world: World) -> None:
        self._real = world.database
        self.away_for = 0

    def read(self, fn):  # type: ignore[no-untyped-def]
        return self._real.read(fn)

    def write(self, fn):  # type: ignore[no-untyped-def]
        if self.away_for > 0:
            self.away_for -= 1
            raise DatabaseUnreachable("away")
        return self._real.write(fn)


@pytest.mark.parametrize(("away_for", "status"), [(5, "delivered"), (1000, "delivering")])
def test_a_database_that_is_away_is_waited_for_until_the_claim_lapses(
    told: World, away_for: int, status: str
) -> None:
    flaky = Flaky(told)
    told.database = flaky  # type: ignore[assignment]
    process = told.another_process()
    told.database = flaky._real

    def go_away(parcel: SignedCallback) -> DeliveryReply:
        flaky.away_for = away_for
        return DeliveryReply(200)

    told.receivers.answers[URL] = go_away
    process.deliver("evt_1")
    assert told.callback().status == status
    assert told.clock.now() - START < 60


def test_a_replay_is_a_new_round_under_the_same_id(told: World) -> None:
    told.receivers.answers[URL] = DeliveryReply(410)
    told.run()
    assert told.dead.replay("alice", "evt_1")
    assert not told.dead.replay("alice", "evt_1")
    told.receivers.answers[URL] = DeliveryReply(500)
    for wait in SCHEDULE:
        told.clock.move(wait + 1)
        told.run()
    assert told.receivers.ids() == ["evt_1"] * 11
    assert [number for number, _, _ in told.deliveries()] == list(range(1, 12))
    assert told.callback().status == "failed"


def test_all_that_was_given_up_since_an_instant_is_replayed(told: World) -> None:
    for number in range(2, 8):
        told.add_callback(f"evt_{number}")
    told.receivers.answers[URL] = DeliveryReply(410)
    told.run()
    told.clock.move(3600)
    told.add_callback("evt_late")
    told.run()
    assert told.dead.replay_since("alice", START + 1800) == 1
    assert told.dead.replay_since("alice", START) == 7 - 0
    assert told.dead.list_dead("alice") == []


def test_dead_letters_are_listed_newest_first_page_by_page(told: World) -> None:
    for number in range(2, 6):
        told.add_callback(f"evt_{number}")
    told.receivers.answers[URL] = DeliveryReply(410)
    told.run()
    first = told.dead.list_dead("alice", limit=3)
    rest = told.dead.list_dead("alice", before_seq=first[-1].seq, limit=3)
    assert [letter.id for letter in first + rest] == ["evt_5", "evt_4", "evt_3", "evt_2", "evt_1"]


def test_a_stranger_neither_sees_nor_replays_anothers_dead_letters(told: World) -> None:
    told.receivers.answers[URL] = DeliveryReply(410)
    told.run()
    assert told.dead.list_dead("bob") == []
    assert not told.dead.replay("bob", "evt_1")
    assert told.dead.replay_since("bob", 0.0) == 0
    assert [letter.id for letter in told.dead.list_dead(None)] == ["evt_1"]


def test_while_a_secret_is_rotated_old_and_new_verify_and_then_only_the_new(told: World) -> None:
    new = rotate_callback_secret(told.database, told.clock, "alice", bytes(range(32)), overlap_seconds=3600)
    told.run()
    parcel = told.receivers.sent[-1]
    assert verifies(parcel, SECRET, told.clock.now())
    assert verifies(parcel, new, told.clock.now())
    told.clock.move(3600)
    told.add_callback("evt_2")
    told.run()
    parcel = told.receivers.sent[-1]
    assert not verifies(parcel, SECRET, told.clock.now())
    assert verifies(parcel, new, told.clock.now())


def test_rotation_touches_no_other_client(told: World) -> None:
    rotate_callback_secret(told.database, told.clock, "bob", bytes(32))
    told.run()
    assert verifies(told.receivers.sent[-1], SECRET, told.clock.now())
    with pytest.raises(NotFound):
        rotate_callback_secret(told.database, told.clock, "nobody", bytes(32))


def test_a_clients_own_headers_are_sent_but_never_in_place_of_ours(told: World) -> None:
    told.set_client(callback_headers='{"X-Tenant": "7", "webhook-id": "evt_forged", "Host": "inside"}')
    told.run()
    headers = told.receivers.sent[0].headers
    assert headers["X-Tenant"] == "7"
    assert headers["webhook-id"] == "evt_1"
    assert "Host" not in headers


def test_the_log_of_a_task_tells_every_try(told: World) -> None:
    told.receivers.answers[URL] = DeliveryReply(500)
    told.run()
    told.receivers.answers.clear()
    told.clock.move(6)
    told.run()
    log = told.database.read(lambda c: deliveries_of(c, "task_1"))
    assert [(d.callback_id, d.number, d.status_code, d.status) for d in log] == [
        ("evt_1", 1, 500, "delivered"),
        ("evt_1", 2, 200, "delivered"),
    ]


def test_the_openai_client_unwraps_the_event_of_a_batch(world: World) -> None:
    from openai import OpenAI

    world.clock.at = time.time()  # the client compares with its own clock
    world.add_batch()
    world.add_callback(task_id=None, batch_id="batch_1", type="batch.completed")
    world.run()
    parcel = world.receivers.sent[0]
    client = OpenAI(api_key="unused", webhook_secret=SECRET)
    event = client.webhooks.unwrap(parcel.body.decode(), parcel.headers)
    assert (event.id, event.type, event.data.id) == ("evt_1", "batch.completed", "batch_1")
