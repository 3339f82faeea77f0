"""Packed bodies, bombs, depth; packed answers; plain HTTP beyond this machine."""

import gzip
import socket
import time
import zlib
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from app.cli.root import group
from app.platform import encryption
from tests.api.world import Client


def test_a_packed_body_is_taken(alice: Client) -> None:
    lines = b"\n".join(orjson.dumps({"prompt": "p" * 50_000}) for _ in range(5))
    answer = alice.post(
        "/v1/batch", gzip.compress(lines), content_type="application/x-ndjson", content_encoding="gzip"
    )
    assert answer.status_code == 202
    assert len(answer.json["task_ids"]) == 5  # type: ignore[index]


def test_every_member_of_a_packed_body_is_taken(alice: Client) -> None:
    packed = b"".join(
        gzip.compress(orjson.dumps({"prompt": name}) + b"\n") for name in ("one", "two", "three")
    )
    answer = alice.post("/v1/batch", packed, content_type="application/x-ndjson", content_encoding="gzip")
    assert (answer.status_code, answer.json["request_counts"]["total"]) == (202, 3)  # type: ignore[index]


@pytest.mark.parametrize("behind", [b"garbage", b"\0", gzip.compress(b"{}", mtime=0)[:-1]])
def test_what_follows_a_packed_body_is_refused(alice: Client, behind: bytes) -> None:
    line = gzip.compress(b'{"prompt":"one"}\n')
    answer = alice.post(
        "/v1/batch", line + behind, content_type="application/x-ndjson", content_encoding="gzip"
    )
    assert answer.status_code == 400
    assert alice.get("/v1/tasks").json["data"] == []  # type: ignore[index]


def test_a_packed_upload_of_several_members_is_stored_whole(alice: Client) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    file = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\none\ntwo\r\n--x--\r\n'
    form = "multipart/form-data; boundary=x"
    packed = gzip.compress(head) + gzip.compress(file)
    answer = alice.post("/v1/files", packed, content_type=form, content_encoding="gzip")
    assert (answer.status_code, answer.json["bytes"]) == (200, 7)  # type: ignore[index]
    cut = alice.post("/v1/files", packed + b"rubbish", content_type=form, content_encoding="gzip")
    assert cut.status_code == 400


def test_unpacking_ends_when_the_client_is_gone(alice: Client) -> None:
    packed = gzip.compress(b" " * 32 * 2**20)
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        began = time.process_time()
        headers = {"authorization": f"Bearer {alice.key}", "content-encoding": "gzip"}
        answer = alice.http.post(
            "/v1/batch",
            data=packed,
            headers={**headers, "content-type": "application/x-ndjson"},
            environ_overrides={"gunicorn.socket": ours},
        )
    assert (answer.status_code, answer.json["error"]["code"]) == (400, "incomplete_body")  # type: ignore[index]
    assert time.process_time() - began < 0.5


def test_a_bomb_ends_at_the_limit_of_the_body(alice: Client) -> None:
    packer = zlib.compressobj(wbits=31)
    bomb = b"".join(packer.compress(b" " * 2**20) for _ in range(64)) + packer.flush()
    assert len(bomb) < 100_000
    assert alice.post("/v1/tasks", bomb, content_encoding="gzip").status_code == 413


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [(b"rubbish", "gzip", 400), (gzip.compress(b"{}" * 500, mtime=0)[:-9], "gzip", 400), (b"{}", "br", 415)],
)
def test_what_cannot_be_unpacked_is_refused(alice: Client, body: bytes, encoding: str, status: int) -> None:
    assert alice.post("/v1/tasks", body, content_encoding=encoding).status_code == status


def test_deep_json_is_refused(alice: Client) -> None:
    deep = b'{"prompt": "x", "parameters": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
    assert alice.post("/v1/tasks", deep, content_type="application/json").status_code == 400


def test_answers_are_packed_when_asked(alice: Client, stranger: Client) -> None:
    for _ in range(5):
        alice.submit()
    packed, plain = alice.get("/v1/tasks", accept_encoding="gzip"), alice.get("/v1/tasks")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.data) == plain.data
    assert "Content-Encoding" not in stranger.get("/v1/tasks", accept_encoding="gzip").headers


def test_plain_http_is_served_to_this_machine_alone_unless_a_proxy_is_said_to_stand_before_it() -> None:
    refused = CliRunner().invoke(group, ["api", "--host", "0.0.0.0"])
    assert refused.exit_code != 0
    assert "--behind-proxy" in str(refused.exception) + refused.output + repr(refused.exception.__dict__)


def test_content_is_sealed_and_opened_by_any_key_that_is_known(tmp_path: Path) -> None:
    old, both = encryption.KeyRing([b"old"]), encryption.KeyRing([b"new", b"old"])
    assert both.unseal(old.seal("gänse")) == both.unseal(both.seal("gänse")) == "gänse"
    assert old.seal("x") != old.seal("x")
    with pytest.raises(encryption.Unsealable):
        old.unseal(both.seal("x"))
    sealed = old.seal("x")
    with pytest.raises(encryption.Unsealable):
        old.unseal(sealed[:-6] + "AAAA" + sealed[-2:])


def test_with_a_key_the_database_holds_no_prompt_and_the_api_the_whole(alice: Client, world: object) -> None:
    from sqlalchemy import text

    database = world.database  # type: ignore[attr-defined]
    encryption.use_vault(encryption.KeyRing([b"key"]))
    try:
        name = alice.submit("a very secret prompt")
        world.end(name)  # type: ignore[attr-defined]
        rows = text("SELECT request, result FROM task_content ORDER BY seq DESC LIMIT 1")
        stored = database.read(lambda c: c.execute(rows).one())
        assert [value[:5] for value in stored] == ["enc1:", "enc1:"]
        assert alice.task(name)["result"]["choices"]
    finally:
        encryption.use_vault(None)
