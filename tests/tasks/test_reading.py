"""Tasks and clients as they are read, each client its own."""

import pytest
from sqlalchemy.exc import IntegrityError

from app.access.store.clients import (
    add_api_key,
    add_client,
    find_api_key,
    get_client,
    list_clients,
    revoke_api_key,
)
from app.platform.database import Database
from app.tasks.domain.task import Hold, Status
from app.tasks.store.tasks import attempts_of, ended_among, get_task, list_tasks
from tests.tasks.rows import NOW, add, add_batch, again, failure, new_task, record, success, take


def _list(database: Database, **wanted: object) -> list[str]:
    client = wanted.pop("client_id", "alice")
    return [row.id for row in database.read(lambda conn: list_tasks(conn, client, **wanted))]  # type: ignore[arg-type]


def test_a_task_is_read_with_its_result_and_the_state_of_its_callback(database: Database) -> None:
    add(database, new_task("1", callback_url="https://a.example/", metadata='{"k":1}', custom_id="mine"))
    row = database.read(lambda conn: get_task(conn, "alice", "task_1"))
    assert row is not None
    assert (row.status, row.hold, row.result, row.callback_status) == (Status.QUEUED, Hold.NONE, None, None)
    assert (row.metadata, row.custom_id, row.step) == ('{"k":1}', "mine", 3)
    record(database, success(take(database, "task_1")["task_1"]))
    row = database.read(lambda conn: get_task(conn, "alice", "task_1"))
    assert row is not None
    assert (row.status, row.result, row.callback_status) == (Status.SUCCEEDED, '{"choices":[]}', "pending")
    assert (row.attempts, row.prompt_tokens, row.cost_picos) == (1, 7, 12)


def test_a_strangers_task_cannot_be_told_from_none(database: Database) -> None:
    add(database, new_task("1"))
    assert database.read(lambda conn: get_task(conn, "stranger", "task_1")) is None
    assert database.read(lambda conn: get_task(conn, "alice", "task_2")) is None
    assert database.read(lambda conn: get_task(conn, None, "task_1")) is not None


def test_tasks_are_listed_newest_first_whatever_their_state(database: Database) -> None:
    add(database, *(new_task(f"{number}") for number in range(6)), new_task("hers", client_id="stranger"))
    claims = take(database, "task_1", "task_2", "task_3")
    record(database, success(claims["task_1"]), failure(claims["task_3"]))
    assert _list(database) == [f"task_{number}" for number in (5, 4, 3, 2, 1, 0)]
    assert _list(database, limit=2) == ["task_5", "task_4"]
    assert _list(database, client_id="stranger") == ["task_hers"]
    assert _list(database, client_id="nobody") == []


def test_pages_continue_where_the_last_one_ended(database: Database) -> None:
    seqs = add(database, *(new_task(f"{number}") for number in range(5)))
    assert _list(database, after_seq=seqs[3], limit=2) == ["task_2", "task_1"]
    assert _list(database, after_seq=seqs[1], limit=2) == ["task_0"]


def test_a_list_may_be_of_one_state_or_of_one_batch(database: Database) -> None:
    ids = add_batch(database, 4)
    add(database, new_task("single"))
    record(database, success(take(database, ids[1])[ids[1]]))
    seqs = {row.id: row.seq for row in database.read(lambda conn: list_tasks(conn, "alice"))}
    assert _list(database, status="succeeded") == [ids[1]]
    assert _list(database, status="queued") == ["task_single", ids[3], ids[2], ids[0]]
    assert _list(database, batch_id="batch_1") == ids[::-1]
    assert _list(database, batch_id="batch_1", status="queued") == [ids[3], ids[2], ids[0]]
    assert _list(database, batch_id="batch_1", after_seq=seqs[ids[2]]) == [ids[1], ids[0]]
    assert _list(database, batch_id="batch_1", client_id="stranger") == []
    assert _list(database, status="failed") == []


def test_lists_carry_no_results(database: Database) -> None:
    add(database, new_task("1"))
    record(database, success(take(database, "task_1")["task_1"]))
    (row,) = database.read(lambda conn: list_tasks(conn, "alice"))
    assert (row.status, row.result) == (Status.SUCCEEDED, None)


def test_attempts_are_told_in_their_order(database: Database) -> None:
    add(database, new_task("1"))
    record(database, again(take(database, "task_1")["task_1"], available_at=None))
    record(database, success(take(database, "task_1", release=2)["task_1"]))
    found = database.read(lambda conn: attempts_of(conn, "task_1"))
    assert [(row.outcome, row.release, row.status_code) for row in found] == [
        ("unavailable", 1, 500),
        ("succeeded", 2, 200),
    ]
    assert found[0].error_message == "oops"


def test_who_waits_is_told_of_tasks_and_batches_that_have_ended(database: Database) -> None:
    ids = add_batch(database, 2, "batch_1")
    (other,) = add_batch(database, 1, "batch_2")
    claims = take(database, *ids, other)
    record(database, success(claims[other]), failure(claims[ids[0]]))
    waited = [*ids, other, "batch_1", "batch_2", "task_9"]
    assert database.read(lambda conn: ended_among(conn, waited)) == {
        ids[0]: "failed",
        other: "succeeded",
        "batch_2": "completed",
    }


def test_a_client_is_added_once(database: Database) -> None:
    added = [
        database.write(lambda conn, secret=secret: add_client(conn, "alice", secret, NOW, weight=2.5))
        for secret in ("whsec_1", "whsec_2")
    ]
    assert added == [True, False]
    row = database.read(lambda conn: get_client(conn, "alice"))
    assert row is not None
    assert (row.weight, row.granted_priority, row.is_admin) == (2.5, "normal", False)
    assert database.read(lambda conn: get_client(conn, "bob")) is None


def test_clients_are_listed_by_their_slugs(database: Database) -> None:
    for name in ("carol", "alice", "bob"):
        database.write(lambda conn, name=name: add_client(conn, name, "whsec_1", NOW))
    assert [row.id for row in database.read(list_clients)] == ["alice", "bob", "carol"]


def test_an_api_key_is_found_by_its_hash_with_its_client(database: Database) -> None:
    database.write(lambda conn: add_client(conn, "alice", "s", NOW, is_admin=True, granted_priority="high"))
    database.write(lambda conn: add_api_key(conn, "ak_1", "alice", "f" * 64, "wxyz", NOW, expires_at=NOW + 9))
    row = database.read(lambda conn: find_api_key(conn, "f" * 64))
    assert row is not None
    assert (row.key_id, row.client_id, row.scopes) == ("ak_1", "alice", "*")
    assert (row.is_admin, row.granted_priority, row.expires_at) == (True, "high", NOW + 9)
    assert database.read(lambda conn: find_api_key(conn, "0" * 64)) is None


def test_a_key_is_revoked_once_and_by_its_client_alone(database: Database) -> None:
    database.write(lambda conn: add_client(conn, "alice", "s", NOW))
    database.write(lambda conn: add_api_key(conn, "ak_1", "alice", "f" * 64, "wxyz", NOW))
    assert not database.write(lambda conn: revoke_api_key(conn, "stranger", "ak_1", NOW))
    assert database.write(lambda conn: revoke_api_key(conn, "alice", "ak_1", NOW))
    assert not database.write(lambda conn: revoke_api_key(conn, "alice", "ak_1", NOW))
    row = database.read(lambda conn: find_api_key(conn, "f" * 64))
    assert row is not None
    assert row.revoked_at == NOW


def test_a_key_of_nobody_is_refused(database: Database) -> None:
    with pytest.raises(IntegrityError):
        database.write(lambda conn: add_api_key(conn, "ak_1", "nobody", "f" * 64, "wxyz", NOW))
