"""Files and batches through the official client: every state, count and field."""

from __future__ import annotations

import gzip
import io
from typing import Any

import openai
import orjson
import pyarrow as pa
import pytest
from openai.types import Batch
from openpyxl import Workbook
from pyarrow import parquet
from sqlalchemy import update

from app.platform.database import Database
from app.tasks.store import tables
from app.tasks.store.tables import task
from tests.openai_client.world import FAST, ONE, RECORDED, SECOND, World, ask
from tests.stack import wait_until

ENDS = ("completed", "failed", "expired", "cancelled")


def line(custom_id: str, words: str = "hello", model: str = FAST, **more: Any) -> dict[str, Any]:
    body = {"model": model, "messages": ask(words), **more}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def upload(client: openai.OpenAI, *lines: Any, purpose: Any = "batch") -> str:
    data = b"\n".join(one if isinstance(one, bytes) else orjson.dumps(one) for one in lines)
    return client.files.create(file=("in.jsonl", data), purpose=purpose).id


def start(client: openai.OpenAI, file_id: str, window: Any = "24h", **more: Any) -> Batch:
    return client.batches.create(
        input_file_id=file_id, endpoint="/v1/chat/completions", completion_window=window, **more
    )


def ended(client: openai.OpenAI, batch: Batch) -> Batch:
    found: Batch = wait_until(
        lambda: (now := client.batches.retrieve(batch.id)).status in ENDS and now,
        what=batch.id,
    )
    return found


def run(client: openai.OpenAI, *lines: Any, **more: Any) -> Batch:
    return ended(client, start(client, upload(client, *lines), **more))


def read(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [orjson.loads(text) for text in client.files.content(file_id).content.splitlines()]


def counts(batch: Batch) -> tuple[int, int, int]:
    assert batch.request_counts is not None
    return batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed


def problems(batch: Batch) -> list[tuple[Any, Any]]:
    assert batch.errors is not None
    return [(error.code, error.line) for error in batch.errors.data or []]


def test_a_batch_lives_from_validating_to_its_output_file(client: openai.OpenAI) -> None:
    file_id = upload(client, line("a", "one"), line("b", "two"))
    batch = start(client, file_id, metadata={"mine": "yes"})
    assert batch.status in ("validating", "in_progress")
    done = ended(client, batch)
    assert (done.status, counts(done)) == ("completed", (2, 2, 0))
    assert (done.input_file_id, done.completion_window, done.metadata) == (file_id, "24h", {"mine": "yes"})
    assert (done.model, done.error_file_id) == (FAST, None)
    assert done.usage is not None
    assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens > 0
    assert done.completed_at
    assert done.in_progress_at
    assert done.finalizing_at
    assert done.expires_at == done.created_at + 86400
    rows = read(client, done.output_file_id)
    assert [row["custom_id"] for row in rows] == ["a", "b"]
    assert rows[0]["response"]["status_code"] == 200
    assert rows[0]["response"]["body"]["choices"][0]["message"]["content"].endswith("one")
    assert all(row["error"] is None for row in rows)
    output = client.files.retrieve(done.output_file_id or "")
    assert (output.purpose, output.bytes) == ("batch_output", len(client.files.content(output.id).content))


def test_successes_and_failures_come_in_two_files(client: openai.OpenAI) -> None:
    done = run(client, line("good"), line("bad", "[bad]"), line("unknown", model="nobody"))
    assert (done.status, counts(done)) == ("completed", (3, 1, 2))
    assert [row["custom_id"] for row in read(client, done.output_file_id)] == ["good"]
    bad, unknown = read(client, done.error_file_id)
    assert bad["response"]["status_code"] == 400
    assert "temperature" in bad["response"]["body"]["error"]["message"]
    assert unknown["response"]["status_code"] == 404
    assert unknown["response"]["body"]["error"]["code"] == "model_not_found"


def test_several_models_and_a_trailing_newline_are_fine(client: openai.OpenAI) -> None:
    done = run(client, line("a"), line("b", model=SECOND), b"", b"")
    assert (done.status, counts(done), done.model) == ("completed", (2, 2, 0), None)


def test_two_batches_over_one_file_are_two(client: openai.OpenAI) -> None:
    file_id = upload(client, line("a"))
    first, second = start(client, file_id), start(client, file_id)
    assert first.id != second.id
    assert {ended(client, batch).status for batch in (first, second)} == {"completed"}


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b"{not json", "invalid_json_line"),
        (line("a"), "duplicate_custom_id"),
        (line("b", stream=True), "invalid_value"),
        ({**line("b"), "url": "/v1/embeddings"}, "invalid_value"),
        ({**line("b"), "method": "GET"}, "invalid_value"),
        ({"method": "POST", "url": "/v1/chat/completions", "body": {}}, "missing_field"),
        ({**line("b"), "custom_id": 1.5}, "invalid_type"),
    ],
)
def test_a_bad_line_fails_the_batch_by_its_number(client: openai.OpenAI, bad: Any, code: str) -> None:
    done = run(client, line("a"), b"", bad)
    assert (done.status, problems(done)) == ("failed", [(code, 3)])
    assert (counts(done), done.output_file_id, done.error_file_id) == ((0, 0, 0), None, None)
    assert done.failed_at


def test_a_wrong_request_is_refused_alone(client: openai.OpenAI) -> None:
    wrong = [
        line("empty", messages=[]),
        line("text", max_tokens="4096"),
        line("kind", temperature="hot"),
        line("metadata", metadata={"a": {}}),
        line("priority", priority=0),
        line("policy", retry="nobody"),
        line("callback", callback_url="ftp://x"),
    ]
    done = run(client, line("a"), *wrong, line("z"))
    assert (done.status, counts(done)) == ("completed", (9, 2, 7))
    refused = read(client, done.error_file_id)
    assert [row["custom_id"] for row in refused] == [each["custom_id"] for each in wrong]
    assert {row["response"]["status_code"] for row in refused} == {400}
    messages = [row["response"]["body"]["error"]["message"] for row in refused]
    assert messages[0].startswith("body.messages: must hold at least 1")
    assert messages[1].startswith("body.max_tokens: must be a positive integer")


def test_lines_as_people_write_them_run(client: openai.OpenAI, world: World) -> None:
    body = {"model": RECORDED, "messages": ask("x"), "max_tokens": 4096.0, "metadata": {"row": 17}}
    world.recorder.bodies.clear()
    done = run(
        client,
        {"custom_id": 17, "body": {**body, "max_tokens": -1}},
        {"custom_id": "wide\u3000space", "method": "post", "url": "/chat/completions", "body": body},
        {"custom_id": "host", "url": "https://api.openai.com/v1/chat/completions/", "body": body},
        rb'{"custom_id": "half", "method": null, "body": {"model": "recorded", '
        rb'"messages": [{"role": "user", "content": "cut \ud83d"}], "priority": 0, "penstock": {"priority": "low"}}}',
    )
    assert (done.status, counts(done)) == ("completed", (4, 4, 0))
    names = [row["custom_id"] for row in read(client, done.output_file_id)]
    assert names == ["17", "wide\u3000space", "host", "half"]
    sent = {orjson.dumps(each).decode() for each in world.recorder.bodies}
    assert any('"max_tokens":4096' in each for each in sent)
    assert any('"max_tokens"' not in each for each in sent)
    assert any("cut \ufffd" in each and '"priority":0' in each for each in sent)


def test_files_of_other_formats_run_or_are_named(client: openai.OpenAI) -> None:
    table = f"custom_id,prompt,model\n1,\u4f60\u597d,{FAST}\n2,\u4e16\u754c,{FAST}\n"
    rows = [row.split(",") for row in table.splitlines()]
    asked = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    book, sheet, columns = Workbook(), io.BytesIO(), io.BytesIO()
    for row in rows:
        book.active.append(row)  # type: ignore[union-attr]
    book.save(sheet)
    parquet.write_table(pa.Table.from_pylist(asked), columns)
    read_files = {
        "gbk.csv": table.encode("gbk"),
        "excel.csv": table.replace(",", ";").encode("utf-16"),
        "packed.jsonl.gz": gzip.compress(table.replace(",", "\t").encode()),
        "pretty.json": orjson.dumps(asked, option=orjson.OPT_INDENT_2),
        "book.xlsx": sheet.getvalue(),
        "rows.parquet": columns.getvalue(),
    }
    refused = {
        "a.pdf": b"%PDF-1.7",
        "a.zip": b"PK\x05\x06" + bytes(18),
        "a.txt": b"Hello\n",
        "a.csv": b"text\na\n",
    }
    made = {
        name: start(client, client.files.create(file=(name, data), purpose="batch").id)
        for name, data in {**read_files, **refused}.items()
    }
    for name in read_files:
        done = ended(client, made[name])
        assert (name, done.status, counts(done)) == (name, "completed", (2, 2, 0))
        assert [row["custom_id"] for row in read(client, done.output_file_id)] == ["1", "2"]
    found = {name: ended(client, made[name]) for name in refused}
    assert {batch.status for batch in found.values()} == {"failed"}
    said = {name: (batch.errors.data or [])[0].message or "" for name, batch in found.items() if batch.errors}
    assert said["a.pdf"].startswith("is a PDF, which is not supported")
    assert "ZIP archive" in said["a.zip"]
    assert "is not JSON" in said["a.txt"]
    assert said["a.csv"].startswith("no column 'prompt'; columns: text")


def test_every_bad_line_is_told(client: openai.OpenAI) -> None:
    done = run(client, b"x", line("a"), b"y")
    assert problems(done) == [("invalid_json_line", 1), ("invalid_json_line", 3)]


def test_a_file_for_evals_is_one_that_the_client_can_read(client: openai.OpenAI) -> None:
    made = client.files.create(file=("evals.jsonl", b"{}"), purpose="evals")
    assert client.files.retrieve(made.id).purpose == "user_data"
    assert made.id in [file.id for file in client.files.list(purpose="evals")]


def test_a_file_of_blank_lines_fails_and_an_empty_one_is_refused(client: openai.OpenAI) -> None:
    assert problems(run(client, b"\n\n")) == [("empty_file", None)]
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.create(file=("in.jsonl", b""), purpose="batch")
    assert refused.value.code == "empty_file"


def test_unknown_files_and_files_for_something_else_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as unknown:
        start(client, "file_nobody")
    assert (unknown.value.code, unknown.value.param) == ("file_not_found", "input_file_id")
    with pytest.raises(openai.BadRequestError) as other:
        start(client, upload(client, line("a"), purpose="user_data"))
    assert other.value.code == "invalid_file_purpose"


def test_a_cancelled_batch_keeps_what_was_paid_for(world: World, client: openai.OpenAI) -> None:
    slow = (line(f"n{n}", "[3 seconds]", ONE) for n in range(6))  # one after the other
    batch = start(client, upload(client, line("first", model=ONE), *slow))
    wait_until(lambda: counts(client.batches.retrieve(batch.id))[1] >= 1, what="progress")
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled"), "a repeat is harmless"
    done = ended(client, batch)
    total, completed, failed = counts(done)
    assert (done.status, total, failed) == ("cancelled", 7, 0)
    assert done.cancelling_at
    assert done.cancelled_at
    assert len(read(client, done.output_file_id)) == completed >= 1
    left = read(client, done.error_file_id)
    assert len(left) == 7 - completed
    assert {row["error"]["code"] for row in left} == {"batch_cancelled"}


def test_a_finished_batch_cannot_be_cancelled(client: openai.OpenAI) -> None:
    done = run(client, line("a"))
    with pytest.raises(openai.BadRequestError) as refused:
        client.batches.cancel(done.id)
    assert refused.value.code == "batch_ended"


def test_an_expired_batch_keeps_what_came_in_time(world: World, client: openai.OpenAI) -> None:
    slow = (line(f"slow {n}", "[3 seconds]", ONE) for n in range(4))  # one after the other
    batch = start(client, upload(client, line("in time", model=ONE), *slow, line("late", model=ONE)), "2h")
    assert batch.expires_at == batch.created_at + 7200
    wait_until(lambda: counts(client.batches.retrieve(batch.id))[1] >= 1, what="progress")
    let_its_time_pass(world, batch.id, 7200)
    done = ended(client, batch)
    assert done.status == "expired"
    assert done.expired_at
    assert "in time" in [row["custom_id"] for row in read(client, done.output_file_id)]
    late = {row["custom_id"]: row["error"] for row in read(client, done.error_file_id)}
    assert late["late"]["code"] == "batch_expired"


def let_its_time_pass(world: World, batch_id: str, seconds: float) -> None:
    """Its deadline comes that much sooner."""
    database = Database(world.stack.environment["DATABASE_URL"])
    for table, mine in ((task, task.c.batch_id == batch_id), (tables.batch, tables.batch.c.id == batch_id)):
        sooner = update(table).where(mine).values(expires_at=table.c.expires_at - seconds)
        database.write(lambda conn, sooner=sooner: conn.execute(sooner))
    database.close()


def test_batches_are_listed_by_the_id_of_the_last(client: openai.OpenAI) -> None:
    made = [start(client, upload(client, line("a"))).id for _ in range(3)]
    page = client.batches.list(limit=2)
    assert [batch.id for batch in page.data] == made[:0:-1]
    assert page.has_more
    assert page.get_next_page().data[0].id == made[0]
    with pytest.raises(openai.BadRequestError):
        client.batches.list(after="batch_nobody")


def test_a_native_batch_is_the_same_batch_in_other_words(world: World, client: openai.OpenAI) -> None:
    made = world.native.submit_batch(["one", "two"], model=FAST)
    world.native.finished_batch(made["id"])
    seen = client.batches.retrieve(made["id"])
    assert (seen.status, counts(seen)) == ("completed", (2, 2, 0))
    assert [row["custom_id"] for row in read(client, seen.output_file_id)] == ["request-0", "request-1"]
    asked = read(client, seen.input_file_id)
    assert [row["body"]["messages"][0]["content"] for row in asked] == ["one", "two"]
    over_file = start(client, upload(client, line("a")))
    ended(client, over_file)
    native = world.native.batch(over_file.id)
    assert native["request_counts"] == {"total": 1, "completed": 1, "failed": 0}


def test_a_repeat_of_a_creation_finds_the_batch_that_was_made(client: openai.OpenAI) -> None:
    file_id = upload(client, line("a"))
    first = start(client, file_id)
    again = start(client, file_id, extra_headers={"x-stainless-retry-count": "1"})
    assert again.id == first.id


def test_files_are_listed_read_and_deleted(world: World, client: openai.OpenAI) -> None:
    made = [upload(client, line(f"f{n}")) for n in range(3)]
    page = client.files.list(limit=2, purpose="batch")
    assert [file.id for file in page.data] == made[:0:-1]
    assert page.get_next_page().data[0].id == made[0]
    assert client.files.content(made[0]).content == orjson.dumps(line("f0"))
    assert client.files.retrieve(made[0]).filename == "in.jsonl"
    assert client.files.delete(made[0]).deleted
    for look in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            look(made[0])
    with pytest.raises(openai.NotFoundError):
        world.client(world.stack.add_client("stranger").key).files.retrieve(made[1])


def test_a_file_of_many_chunks_comes_back_as_it_went(client: openai.OpenAI) -> None:
    data = bytes(range(256)) * 4096 * 3 + b"end"
    made = client.files.create(
        file=("big.bin", data), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert (made.bytes, made.expires_at) == (len(data), made.created_at + 3600)
    assert client.files.content(made.id).content == data


def test_a_truncated_upload_leaves_nothing(world: World, client: openai.OpenAI) -> None:
    before = [file.id for file in client.files.list(limit=100).data]
    broken = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"z" * 2_000_000
    answer = world.native.call("POST", "/v1/files", broken, content_type="multipart/form-data; boundary=x")
    assert (answer.status, answer.body["error"]["code"]) == (400, "incomplete_body")
    assert [file.id for file in client.files.list(limit=100).data] == before
