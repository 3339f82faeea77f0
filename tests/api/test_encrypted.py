"""With a content key the database holds nothing that a prompt or an answer could be read from, in any table."""

import re
import uuid
from collections.abc import Iterator
from io import BytesIO

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, text

from app.caching.store import database_answers
from app.composition.schema import metadata
from app.platform import encryption
from app.platform.database import Database
from app.platform.migrate import upgrade
from app.reporting.meters import Meters
from app.tasks.domain.attempt import Outcome, TaskFailure
from app.tasks.domain.task import Status
from app.tasks.store.tables import client as client_table
from tests.api.world import ADMIN_KEY, MODEL, Client, Parts, World
from tests.servers import PostgresServer


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def session_world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """A world of their own: nobody without the key could read what these tests leave behind."""
    url = f"sqlite:///{tmp_path_factory.mktemp('sealed')}/penstock.db"
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.create_database()
    upgrade(url)
    meters = Meters()
    parts = Parts(Database(url, ended=meters.ended), url, meters=meters)
    world = World(parts)
    yield world
    world.app.close()
    parts.database.close()
    if request.param == "postgresql":
        server.drop_database(url)


@pytest.fixture
def secret() -> str:
    return f"goose-{uuid.uuid4().hex}"


@pytest.fixture(autouse=True)
def _vault() -> Iterator[None]:
    encryption.use_vault(encryption.KeyRing([b"a content key of some length"]))
    yield
    encryption.use_vault(None)


def everything(world: World) -> str:
    """Each table as it lies there."""
    names = [table.name for table in metadata.sorted_tables]
    rows = world.database.read(
        lambda conn: [row for name in names for row in conn.execute(text(f"SELECT * FROM {name}"))]
    )
    return "\n".join(str([bytes(v) if isinstance(v, memoryview) else v for v in row]) for row in rows)


def upload(client: Client, body: bytes) -> str:
    answer = client.http.post(
        "/v1/files",
        data={"purpose": "batch", "file": (BytesIO(body), "lines.jsonl")},
        headers={"authorization": f"Bearer {client.key}"},
    )
    assert answer.status_code == 200, answer.data
    return str(answer.json["id"])  # type: ignore[index]


def test_a_file_is_sealed_chunk_by_chunk_and_read_as_it_came(
    world: World, alice: Client, stranger: Client, secret: str
) -> None:
    line = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": MODEL, "messages": [{"role": "user", "content": secret}]},
    }
    body = orjson.dumps(line) + b"\n"
    name = upload(alice, body)
    assert alice.get(f"/v1/files/{name}/content").data == body
    assert stranger.get(f"/v1/files/{name}/content").status_code == 404
    assert secret not in everything(world)


def test_metadata_answers_and_the_words_of_upstreams_are_sealed(
    world: World, alice: Client, secret: str
) -> None:
    answer = orjson.dumps({"choices": [{"message": {"content": secret}}]}).decode()
    done = alice.submit(secret, metadata={"about": secret})
    batch = alice.submit_batch(1, metadata={"about": secret})
    failed = alice.submit(secret)
    world.end(done, result=answer)
    world.end(
        failed,
        outcome=Outcome.INVALID_REQUEST,
        status=Status.FAILED,
        result=None,
        usage=None,
        cost=None,
        error_message=f"cannot read {secret}",
        failure=TaskFailure("invalid_request_error", "invalid_request", f"cannot read {secret}"),
    )
    world.database.write(lambda conn: database_answers.keep(conn, [(f"k:{secret[6:]}", answer, 60.0)], 0.0))
    assert alice.task(done)["metadata"] == {"about": secret}
    assert alice.task(done)["result"]["choices"][0]["message"]["content"] == secret
    assert alice.get(f"/v1/batch/{batch['id']}").json["metadata"] == {"about": secret}
    assert secret in alice.task(failed)["error"]["message"]
    (kept,) = world.database.read(lambda conn: database_answers.look_up(conn, [f"k:{secret[6:]}"], 1.0))
    assert kept.entry == answer
    assert secret not in everything(world)


def test_what_was_stored_before_there_was_a_key_is_read_as_it_is(
    world: World, alice: Client, secret: str
) -> None:
    encryption.use_vault(None)
    plain, file = alice.submit(secret, metadata={"a": secret}), upload(alice, b'{"a": 1}\n')
    assert secret in everything(world)
    encryption.use_vault(encryption.KeyRing([b"a key that came later"]))
    assert alice.task(plain)["metadata"] == {"a": secret}
    assert alice.get(f"/v1/files/{file}/content").data == b'{"a": 1}\n'


def test_bytes_that_were_changed_are_not_given_out(secret: str) -> None:
    vault = encryption.KeyRing([b"key"])
    sealed = vault.seal_bytes(secret.encode())
    assert vault.unseal_bytes(sealed) == secret.encode()
    with pytest.raises(encryption.Unsealable):
        vault.unseal_bytes(sealed[:-1] + bytes([sealed[-1] ^ 1]))


@pytest.mark.parametrize(
    "configured", [None, encryption.KeyRing([b"another key"])], ids=["no key", "another key"]
)
def test_a_missing_key_is_named_and_the_rest_is_still_shown(
    world: World, alice: Client, secret: str, configured: encryption.KeyRing | None
) -> None:
    task_id = alice.submit(secret, metadata={"about": secret})
    batch = alice.submit_batch(1, metadata={"about": secret})
    http = world.app.test_client()
    token = re.search(r'name="csrf" value="([^"]+)"', http.get("/login").text)
    assert token is not None
    http.post("/login", data={"csrf": token[1], "key": alice.key})
    name = encryption.seal("x").split(":")[1]
    encryption.use_vault(configured)
    world.parts.clock.ahead += 60.0  # what was read before is old
    listed = alice.get("/v1/tasks").json["data"]  # type: ignore[index]
    assert {task["metadata"] and task["metadata"].get("about") for task in listed} == {None}
    assert task_id in [task["id"] for task in listed]
    for path in (f"/v1/tasks/{task_id}", f"/v1/batch/{batch['id']}"):
        answer = alice.get(path)
        assert (answer.status_code, answer.json["error"]["code"]) == (500, "content_key_missing")
        for words in (f"the key {name}", "[storage]"):
            assert words in answer.json["error"]["message"]
    figures = alice.get("/metrics")
    assert figures.status_code == 200
    assert "penstock_database_up 1.0" in figures.text
    overview = http.get("/")
    assert overview.status_code == 200
    assert f"the key {name}" in overview.text
    page = http.get(f"/tasks/{task_id}")
    assert page.status_code == 500
    assert f"the key {name}" in page.text


FOREIGN = [
    "enc1:deadbeef:AAAA",
    "enc1:",
    "enc1::",
    "enc1:deadbeef:" + "A" * 60,
    "enc0:enc1:deadbeef:AAAA",
    "enc0:",
    "enc0:enc",
    "enc1:deadbeef:" + "A" * 60 + "\n",
]


@pytest.mark.parametrize("with_key", [False, True], ids=["no key", "a key"])
@pytest.mark.parametrize("words", FOREIGN)
def test_words_that_look_sealed_break_no_list(
    world: World, alice: Client, words: str, with_key: bool
) -> None:
    if not with_key:
        encryption.use_vault(None)
    failed = alice.submit(words, metadata={"about": words})
    world.end(
        failed,
        outcome=Outcome.INVALID_REQUEST,
        status=Status.FAILED,
        result=None,
        usage=None,
        cost=None,
        error_message=words,
        failure=TaskFailure("invalid_request_error", "invalid_request", words),
    )
    assert alice.task(failed)["error"]["message"] == words
    (listed,) = [task for task in alice.get("/v1/tasks").json["data"] if task["id"] == failed]  # type: ignore[index]
    assert (listed["error"]["message"], listed["metadata"]) == (words, {"about": words})
    body = b"\0penstock-" + words.encode()
    assert alice.get(f"/v1/files/{upload(alice, body)}/content").data == body


@pytest.mark.parametrize("words", ["enc1:deadbeef:AAAA", "enc1:deadbeef", "enc1:", "enc0:hello"])
def test_foreign_words_that_an_older_version_stored_as_they_were_are_read(words: str) -> None:
    for vault in (None, encryption.KeyRing([b"a key"])):
        encryption.use_vault(vault)
        assert encryption.unseal(words) == words
        assert (
            encryption.unseal_bytes(b"\0penstock-" + words.encode()[:20])
            == b"\0penstock-" + words.encode()[:20]
        )


@given(st.sampled_from(["", "enc0:", "enc1:", "enc0:enc1:"]), st.text(), st.booleans())
def test_all_that_is_stored_is_read_as_it_was_given(mark: str, text: str, with_key: bool) -> None:
    encryption.use_vault(encryption.KeyRing([b"a key"]) if with_key else None)
    data = b"\0penstock-" + (mark + text).encode(errors="replace")
    stored, stored_bytes = (
        encryption.seal(mark + text.encode(errors="replace").decode()),
        encryption.seal_bytes(data),
    )
    later = encryption.KeyRing([b"another", b"a key"])
    for vault in [later] if with_key else [None, later]:
        encryption.use_vault(vault)
        assert encryption.unseal(stored) == mark + text.encode(errors="replace").decode()
        assert encryption.unseal_bytes(stored_bytes) == data


def test_what_signs_callbacks_is_sealed(session_world: World) -> None:
    name = f"c{uuid.uuid4().hex[:8]}"
    admin = session_world.anonymous(ADMIN_KEY)
    made = admin.post("/v1/admin/clients", {"id": name}).json
    rotated = admin.post(f"/v1/admin/clients/{name}/callback-secret", {}).json
    lies = everything(session_world)
    assert not any(secret in lies for secret in (made["callback_secret"], rotated["callback_secret"]))
    known = session_world.database.read(
        lambda conn: conn.execute(select(client_table).where(client_table.c.id == name)).one()
    )
    assert known.callback_secret == rotated["callback_secret"]
    assert known.callback_secret_previous == made["callback_secret"]
