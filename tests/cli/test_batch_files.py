"""`penstock submit` with files of all kinds against a service that notes what it is sent, and results as files."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
from click.testing import CliRunner, Result
from openpyxl import Workbook
from pyarrow import parquet

from app.cli.batch.results import Job, Output, defused, files_of, output_of, write_results
from app.cli.batch.submit import command as submit
from app.cli.failure import CommandFailure
from tests.cli.running import command, environment

TABLE = "custom_id,prompt,n\n1,a,=1+1\n2,b,-5\n"


class Service(BaseHTTPRequestHandler):
    """Takes batches; refuses one with the word "refused" in its third request."""

    received: ClassVar[list[tuple[dict[str, list[str]], list[Any]]]] = []

    def do_POST(self) -> None:
        raw = b""
        while size := int(self.rfile.readline(), 16):
            raw += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        requests = [json.loads(line) for line in raw.splitlines()]
        self.received.append((parse_qs(urlsplit(self.path).query), requests))
        if "refused" in json.dumps(requests):
            error = {"message": "line 3: requests[2].model: no model 'x'", "param": "requests[2].model"}
            return self._answer(400, {"error": error})
        return self._answer(200, {"requests": len(requests), "tokens": 1234567, "id": "batch_1"})

    def _answer(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[tuple[dict[str, list[str]], list[Any]]]]:
    Service.received.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENSTOCK_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("PENSTOCK_API_KEY", "pk_test")
    yield Service.received
    server.shutdown()
    server.server_close()


def run(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(submit, list(arguments), input=stdin)


def test_a_process_reads_a_pipe_by_its_content(service: Any, tmp_path: Path) -> None:
    book, held = Workbook(), io.BytesIO()
    for row in (["custom_id", "prompt"], [1, "a"], [2, "b"]):
        book.active.append(row)
    book.save(held)
    ran = subprocess.run(
        command("submit", "-", "--dry-run", "--model", "m"),
        cwd=tmp_path, env=environment(**_address()), input=held.getvalue(), capture_output=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    ((options, requests),) = service
    assert options == {"model": ["m"], "dry_run": ["true"], "expires_in": ["24h"]}
    assert requests == [{"prompt": "a", "custom_id": "1"}, {"prompt": "b", "custom_id": "2"}]
    assert ran.stderr.decode().splitlines()[0] == "Read 2 requests from standard input."
    assert b"2 requests, about 1,230,000 tokens" in ran.stderr


def _address() -> dict[str, str]:
    import os

    return {name: os.environ[name] for name in ("PENSTOCK_URL", "PENSTOCK_API_KEY")}


def test_every_fault_is_listed_and_nothing_is_sent(service: Any) -> None:
    Path("a.jsonl").write_text(
        '{"promt": "a"}\n{"prompt": "b", "custom_id": "1"}\nx\n{"prompt": "c", "custom_id": 1}\n'
    )
    ran = run("a.jsonl", "--dry-run")
    assert ran.exit_code == 1
    assert service == []
    first, *faults, hint = ran.output.splitlines()
    assert first == "penstock: 3 faults; nothing was submitted"
    assert [fault.split(":")[0].strip() for fault in faults] == [
        "a.jsonl, line 1",
        "a.jsonl, line 3",
        "a.jsonl, line 4",
    ]
    assert "did you mean prompt?" in faults[0]
    assert "is the id of an earlier request" in faults[2]
    assert "--kind txt" in hint


def test_what_the_service_refuses_is_named_by_its_place_in_the_file(service: Any) -> None:
    Path("a.csv").write_text("prompt,n\na,1\n,,\n\nb,2\nrefused,3\n")
    ran = run("a.csv", "--dry-run")
    assert "penstock: a.csv, row 6: model: no model 'x'" in ran.output


def test_a_folder_is_one_batch_in_the_order_of_its_names(service: Any) -> None:
    for name, text in (("part-10.txt", "ten"), ("part-9.jsonl", '{"prompt": "nine"}'), ("sub/z.csv", "prompt\nz\n"),
                       (".hidden", "x"), ("~$lock.xlsx", "x")):  # fmt: skip
        place = Path("in") / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    assert run("in", "--dry-run").exit_code == 0
    assert [request["prompt"] for request in service[0][1]] == ["nine", "ten", "z"]
    Path("in/photo.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    ran = run("in", "--dry-run")
    assert (ran.exit_code, len(service)) == (1, 1)
    assert "photo.jpg: is an image (JPEG), which is not supported" in ran.output
    assert run("nothing", "--dry-run").output.startswith("penstock: file not found: nothing")


def test_the_commonest_job_needs_no_json_by_hand(service: Any) -> None:
    Path("a.csv").write_text("review,stars\nGood,5\n")
    Path("role.txt").write_text("Answer in one word.\n")
    Path("mood.json").write_text('{"type": "object"}')
    ran = run(
        "a.csv", "--column", "review", "--system", "role.txt", "--temperature", "0", "--max-tokens", "5",
        "--json-schema", "mood.json", "--param", "top_p=0.5", "--param", "user=me", "--tag", "job=x",
        "--priority", "low", "--callback-url", "https://example.com/hook", "--dry-run",
    )  # fmt: skip
    assert ran.exit_code == 0, ran.output
    ((options, (request,)),) = service
    assert (options["priority"], options["callback_url"]) == (["low"], ["https://example.com/hook"])
    schema = {"name": "mood", "schema": {"type": "object"}, "strict": True}
    assert request == {
        "messages": [{"role": "system", "content": "Answer in one word."}, {"role": "user", "content": "Good"}],
        "parameters": {
            "top_p": 0.5, "user": "me", "temperature": 0.0, "max_tokens": 5,
            "response_format": {"type": "json_schema", "json_schema": schema},
        },
        "metadata": {"job": "x"},
    }  # fmt: skip


def test_what_a_request_says_itself_counts(service: Any) -> None:
    own = {
        "messages": [{"role": "system", "content": "Mine"}],
        "parameters": {"temperature": 1},
        "metadata": {"job": "y"},
    }
    Path("a.jsonl").write_text(json.dumps(own))
    run("a.jsonl", "--system", "Other", "--temperature", "0", "--tag", "job=x", "--dry-run")
    assert service[0][1] == [own]


@pytest.mark.parametrize(("options", "why"), [
    (["--param", "top_p"], "NAME=VALUE"), (["--column", "a", "--template", "{a}"], "one of --column and --template"),
    (["--out", "a.xlsx"], "workbooks are not written"), (["--encoding", "gbk2"], "unknown encoding"),
])  # fmt: skip
def test_a_wrong_option_is_refused_before_anything_is_read(
    service: Any, options: list[str], why: str
) -> None:
    Path("a.txt").write_text("a")
    ran = run("a.txt", *options)
    assert ran.exit_code != 0
    assert why in ran.output
    assert service == []


# -- results


def result(index: int, answer: Any = "", **more: Any) -> bytes:
    choice = {"choices": [{"message": {"content": answer}}]}
    return orjson.dumps({"index": index, "custom_id": None, "task_id": f"task_{index}", "status": "succeeded", "result": choice, "error": None, **more})  # fmt: skip  # noqa: E501


def table_job(folder: Path, content: str | bytes = TABLE, **how: str) -> Job:
    source = folder / "in.csv"
    source.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Job(str(source), "csv", **how)


def written(folder: Path, name: str, job: Job, *lines: bytes, **how: bool) -> Path:
    out = folder / name
    assert write_results(lines, Output(out, **how), job) == len(lines)
    return out


HEAD = ["answer", "status", "error", "task_id", "row"]


def test_a_csv_keeps_the_columns_and_names_the_row(tmp_path: Path) -> None:
    content = "custom_id;text;answer\n1;x;y\n;;\n2;z;ä\n".encode("gb18030")
    job = table_job(tmp_path, content, encoding="gb18030", column="text")
    out = written(tmp_path, "out.csv", job, result(0, "A"), result(1, "B"))
    head, first, second = csv.reader(out.read_text(encoding="utf-8").splitlines())
    assert head == ["custom_id", "text", "answer", "penstock_answer", *HEAD[1:]]
    assert first == ["1", "x", "y", "A", "succeeded", "", "task_0", "2"]
    assert second == ["2", "z", "ä", "B", "succeeded", "", "task_1", "4"]


def test_formulas_are_defused_and_excel_gets_its_mark(tmp_path: Path) -> None:
    out = written(
        tmp_path, "out.csv", table_job(tmp_path), result(0, "=HYPERLINK(1)"), result(1, "-3.5"), excel=True
    )
    text = out.read_text(encoding="utf-8")
    assert text.startswith("\ufeffcustom_id,")
    first, second = list(csv.reader(text.splitlines()))[1:]
    assert (first[2:4], second[2:4]) == (["'=1+1", "'=HYPERLINK(1)"], ["-5", "-3.5"])
    raw = written(tmp_path, "raw.csv", table_job(tmp_path), result(0, "=1"), result(1, "x"), raw=True)
    assert raw.read_text().splitlines()[1].startswith("1,a,=1+1,=1,")


@pytest.mark.parametrize(("cell", "safe"), [
    ("=1", False), ("+cmd|' /C calc'!A0", False), ("@SUM(1)", False), ("\t=1", False), ("-x", False),
    ("\uff1d1", False),
    ("-1.5e3", True), ("+49", True), ("12%", True), ("a=1", True), ("", True),
])  # fmt: skip
def test_only_what_a_spreadsheet_would_run_is_defused(cell: str, safe: bool) -> None:
    assert defused(cell) == (cell if safe else f"'{cell}")


def test_added_columns_get_names_of_their_own_and_headers_are_defused(tmp_path: Path) -> None:
    job = table_job(tmp_path, "prompt,answer,penstock_answer,=cmd()\na,b,c,d\n")
    (head,) = csv.reader(written(tmp_path, "out.csv", job, result(0, "x")).read_text().splitlines()[:1])
    assert head == ["prompt", "answer", "penstock_answer", "'=cmd()", "penstock_penstock_answer", *HEAD[1:]]
    table = parquet.read_table(written(tmp_path, "out.parquet", job, result(0, "x")))
    assert table.to_pydict()["penstock_penstock_answer"] == ["x"]


def test_results_never_replace_what_was_submitted_nor_stand_among_it(service: Any, tmp_path: Path) -> None:
    Path("in").mkdir()
    for place in ("in.csv", "in/a.csv"):
        Path(place).write_text(TABLE)
    for source, out, why in (
        ("in.csv", "in.csv", "in.csv is the file that is submitted"),
        ("in", "in/out.csv", "in/out.csv is inside the submitted folder in"),
        ("in.csv", "none/out.csv", "there is no folder none"),
    ):
        ran = run(source, "--out", out)
        assert (ran.exit_code, service) == (1, [])
        assert why in ran.output
    with pytest.raises(CommandFailure, match="is inside"):
        write_results([], Output(Path("in/out.csv")), Job("in"))
    assert Path("in.csv").read_text() == TABLE


def test_fields_of_json_are_named_by_column_and_the_ids_are_kept(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"question": "a", "custom_id": "x"}\n{"question": "b"}\n')
    job = Job(str(tmp_path / "in.jsonl"), "jsonl", column="question")
    out = written(tmp_path, "out.csv", job, result(0, "A"), result(1, "B"))
    rows = list(csv.reader(out.read_text().splitlines()))[1:]
    assert [row[1:3] for row in rows] == [["a", "A"], ["b", "B"]]
    assert [row[0] for row in rows] == ["x", "1"]


def test_json_lines_are_one_a_request_with_row_and_input(tmp_path: Path) -> None:
    line = result(1, "B", exact=1)[:-1] + b',"big":12345678901234567890123,"f":1.10}'
    out = written(tmp_path, "out.jsonl", table_job(tmp_path), line)
    (text,) = out.read_text().splitlines()
    assert text.startswith(line[:-1].decode())
    assert json.loads(text)["row"] == 3
    assert json.loads(text)["input"] == {"custom_id": "2", "prompt": "b", "n": "-5"}


def test_parquet_has_the_columns_and_the_row_as_a_number(tmp_path: Path) -> None:
    out = written(tmp_path, "out.parquet", table_job(tmp_path), result(0, "A"), result(1, None))
    table = parquet.read_table(out)
    assert table.column_names == ["custom_id", "prompt", "n", *HEAD]
    assert table.to_pydict()["row"] == [2, 3]
    assert table.to_pydict()["answer"] == ["A", ""]


def test_the_prompt_stands_beside_the_answer_of_lines_and_templates(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("one\n\ntwo\n")
    out = written(tmp_path, "out.csv", Job(str(tmp_path / "in.txt"), "txt"), result(1, "B"))
    assert out.read_text().splitlines() == [
        ",".join(["custom_id", "prompt", *HEAD]), "1,two,B,succeeded,,task_1,3",
    ]  # fmt: skip
    job = table_job(tmp_path, "text\na\n", template="Translate {text}")
    out = written(tmp_path, "out.csv", job, result(0, "A"))
    assert out.read_text().splitlines()[1] == "a,Translate a,A,succeeded,,task_0,2"


def test_a_source_that_has_changed_is_named_and_keeps_the_old_file(tmp_path: Path) -> None:
    job = table_job(tmp_path)
    out = written(tmp_path, "out.csv", job, result(0))
    before = out.read_text()
    table_job(tmp_path, "custom_id,prompt,n\n1,a,1\n")
    for content in ("custom_id,prompt,n\n1,a,1\n", ""):
        table_job(tmp_path, content)
        with pytest.raises(CommandFailure):
            written(tmp_path, "out.csv", job, result(0), result(1))
    Path(job.source).unlink()
    with pytest.raises(CommandFailure, match="is gone"):
        written(tmp_path, "out.csv", job, result(0))
    assert out.read_text() == before


def test_a_format_that_cannot_be_written_is_refused_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(CommandFailure, match="needs pyarrow") as caught:
        output_of(Path("a.parquet"), excel=False, raw_cells=False)
    assert "penstock[files]" in (caught.value.hint or "")
    assert files_of(tmp_path) == []
