"""What `penstock submit` makes of files, and of a template and a row."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cli.batch.commands import Job, write_results
from app.cli.batch.prompts import KINDS, PromptFile, Request, fill, kind_of, requests_of
from app.cli.failure import CommandFailure

ROW = {"text": "a {brace} in a value", "into": "French"}


def test_columns_are_put_in_and_values_are_left_alone() -> None:
    assert (
        fill("Translate {text} into { into }", ROW, "row 2") == "Translate a {brace} in a value into French"
    )
    assert fill('{{"text": "{into}"}}', ROW, "row 2") == '{"text": "French"}'


@pytest.mark.parametrize(
    "template", ["Greet {into", "Greet into}", "{}", "{{into}", '{"text": "x"', "{a{into}}"]
)
def test_a_lone_brace_is_refused_before_anything_is_paid_for(template: str) -> None:
    with pytest.raises(CommandFailure) as caught:
        fill(template, ROW, "row 2")
    assert "brace" in str(caught.value)


def test_a_column_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(CommandFailure, match="row 2: no column 'name'; columns: text, into"):
        fill("Greet {name}", ROW, "row 2")


def read(path: Path, kind: str | None = None, **how: str) -> list[Request]:
    """As `penstock submit` reads it."""
    source = PromptFile(path, "", **how)
    return list(requests_of(PromptFile(path, kind_of(source.text, kind), **how)))


def written(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def packed(content: bytes) -> bytes:
    """As gzip, without the time: contents are names of tests, which each process must find the same."""
    return gzip.compress(content, mtime=0)


def workbook() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as book:
        book.writestr(zipfile.ZipInfo("xl/workbook.xml"), "<workbook/>")
    return held.getvalue()


AB = [{"prompt": "a"}, {"prompt": "b"}]
NAMED = [{"custom_id": "1", "prompt": "a"}, {"custom_id": "2", "prompt": "b"}]
CHINESE = [{"custom_id": "1", "prompt": "\u4f60\u597d\uff0c\u4e16\u754c"}]
TABLE = "custom_id,prompt\n1,a\n2,b\n"
CHINESE_TABLE = "custom_id,prompt\n1,\u4f60\u597d\uff0c\u4e16\u754c\n"
ARRAY = json.dumps(AB)
LONG = "x" * 200_000

READ: list[tuple[str, bytes | str, list[Request]]] = [
    ("a.json", ARRAY, AB),
    ("a.json", json.dumps(AB, indent=2), AB),
    ("a", json.dumps(AB, indent=2), AB),
    ("a.jsonl", "\ufeff\n" + ARRAY, AB),
    ("a.json", '["a", "b"]', AB),
    ("a.json", '{"prompt": "a"}\n{"prompt": "b"}\n', AB),
    ("a.jsonl", '\ufeff{"prompt": "a"}\r\n\r\n"b"\r\n', AB),
    ("a.jsonl", ARRAY.encode("utf-16"), AB),
    ("a.jsonl.gz", packed(b'"a"\n"b"'), AB),
    ("a.jsonl", packed(b'"a"\n') + packed(b'"b"\n'), AB),
    ("a", packed(json.dumps(AB, indent=1).encode()), AB),
    ("a.txt", "a\n\n b \r\n", AB),
    ("a.txt", "a\nb".encode("utf-16"), AB),
    ("a.txt.gz", packed(b"a\nb"), AB),
    ("a", "a\nb", AB),
    ("a.csv", TABLE, NAMED),
    ("a.csv", "\ufeff" + TABLE, NAMED),
    ("a.csv", TABLE.replace("\n", "\r\n"), NAMED),
    ("a.csv", TABLE.replace("\n", "\r"), NAMED),
    ("a.csv", TABLE.encode("utf-16"), NAMED),
    ("a.csv", TABLE.encode("utf-16-le"), NAMED),
    ("a.csv", TABLE.encode("utf-16-be"), NAMED),
    ("a.csv", TABLE.encode("utf-32"), NAMED),
    ("a.csv", CHINESE_TABLE.encode("utf-16"), CHINESE),
    ("a.csv", CHINESE_TABLE.encode("utf-16-le"), CHINESE),
    ("a.csv", TABLE.replace(",", ";"), NAMED),
    ("a.csv", TABLE.replace(",", "\t"), NAMED),
    ("a.csv", TABLE.replace(",", "|"), NAMED),
    ("a.tsv", TABLE.replace(",", "\t"), NAMED),
    ("a.TSV", TABLE.replace(",", "\t"), NAMED),
    ("a", TABLE.replace(",", "\t"), NAMED),
    ("a", TABLE, NAMED),
    ("a.csv.gz", packed(TABLE.encode()), NAMED),
    ("a.csv", TABLE + ",\n, \n,,,\n", NAMED),
    ("a.csv", " custom_id , prompt,,\n1,a,,\n2,b\n", NAMED),
    ("a.csv", f"custom_id,prompt\n1,{LONG}\n", [{"custom_id": "1", "prompt": LONG}]),
    (
        "a.csv",
        'custom_id,prompt\n1,"two\nlines, ""so"""\n',
        [{"custom_id": "1", "prompt": 'two\nlines, "so"'}],
    ),
]


@pytest.mark.parametrize(("name", "content", "requests"), READ)
def test_a_file_is_read_for_what_it_is(
    tmp_path: Path, name: str, content: bytes | str, requests: list[Request]
) -> None:
    assert read(written(tmp_path, name, content)) == requests


OPEN_QUOTE = "prompt\n" + "".join(f"{chr(34) if n == 400 else ''}row {n}\n" for n in range(2, 1001))
LATER_QUOTE = OPEN_QUOTE.replace("row 700", '"row" 700')
REFUSED: list[tuple[str, bytes | str, str, str]] = [
    ("a.csv", OPEN_QUOTE, "row 400: opens a quote that is never closed", "Close it"),
    ("a.csv", LATER_QUOTE, "row 400: has a stray quote", "Close it"),
    ("a.csv", CHINESE_TABLE.encode("gbk"), "line 2: is not UTF-8", "--encoding gb18030"),
    ("a.csv", "prompt\nol\u00e9\n".encode("cp1252"), "line 2: is not UTF-8", "cp1252"),
    ("a.txt", "ok\nol\u00e9\n".encode("cp1252"), "line 2: is not UTF-8", "cp1252"),
    ("a.jsonl", '"ok"\n"ol\u00e9"\n'.encode("cp1252"), "line 2: is not UTF-8", "cp1252"),
    ("a.csv", ("prompt\n" + "ok\n" * 5000 + "ol\u00e9\n").encode("cp1252"), "line 5002: is not UTF-8", "cp1252"),
    ("a.csv", "text,id,text\na,1,b\n", "two columns named 'text'", "Rename"),
    ("a.csv", "text, text\na,b\n", "two columns named 'text'", "Rename"),
    ("a.csv", "Prompt,n\na,1\n", "no column 'prompt'", "{Prompt}"),
    ("a.csv", "propmt,n\na,1\n", "no column 'prompt'", "{propmt}"),
    ("a.csv", "prompt,n\na,1,2\n", "row 2: has 3 columns", "--delimiter"),
    ("a.csv", "prompt\na,b\n", "row 2: has 2 columns", "--delimiter"),
    ("a.csv", "prompt,n\n", "contains no requests", "Nothing"),
    *((f"a.{kind}", "", "contains no requests", "Nothing") for kind in (*KINDS, "json", "gz")),
    ("a", "", "contains no requests", "Nothing"),
    ("a.txt", " \n\n", "contains no requests", "Nothing"),
    ("a.json", "[]", "contains no requests", "Nothing"),
    ("a.json", '[{"prompt": "a"}', "is not JSON", ""),
    ("a.json", "[1]", "item 1: is neither", ""),
    ("a.json", '["a", ["b"]]', "item 2: is neither", ""),
    ("a.jsonl", '"a"\n{', "line 2: is not JSON", ""),
    ("a.jsonl", '{"url": "/v1/embeddings", "body": {}}', "line 1: its url is '/v1/embeddings'", "chat"),
    ("a.txt", ARRAY, "a JSON array", "--kind"),
    ("a.txt", json.dumps(AB, indent=2), "a JSON array", "--kind"),
    ("a.txt", TABLE, "a table (csv)", "--kind"),
    ("a.txt", TABLE.replace(",", "\t"), "a table (tsv)", "--kind"),
    ("a", "one\t1\ntwo\t2\n", "a table (tabs)", "--kind"),
    ("a.xlsx", workbook(), "an Excel workbook (.xlsx)", "CSV"),
    ("a.csv", workbook(), "an Excel workbook (.xlsx)", "CSV"),
    ("a", workbook(), "an Excel workbook (.xlsx)", "CSV"),
    ("a.txt", b"PK\x03\x04broken", "a zip archive", "gzip"),
    ("a.parquet", b"PAR1\x15\x04", "a Parquet file", "CSV"),
    ("a.jsonl.zst", b"\x28\xb5\x2f\xfd\x00", "compressed with zstd", "gzip"),
    ("a.txt", b"%PDF-1.7", "a PDF", "CSV"),
    ("a.txt", b"some\x00\x01\x02\x00\x00\x00text\x00\x00", "NUL", "CSV"),
    ("a.csv.gz", packed(TABLE.encode())[:-12], "corrupt gzip", "again"),
    ("a.csv.gz", b"\x1f\x8b\x08nonsense", "corrupt gzip", "again"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "why", "hint"), REFUSED)
def test_what_is_not_read_is_refused_with_what_to_do(
    tmp_path: Path, name: str, content: bytes | str, why: str, hint: str
) -> None:
    path = written(tmp_path, name, content)
    with pytest.raises(CommandFailure) as caught:
        read(path)
    assert str(caught.value).startswith(name)
    assert why in str(caught.value)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [workbook(), b"PAR1\x15", packed(workbook())])
def test_what_is_no_text_is_refused_whatever_it_is_said_to_be(
    tmp_path: Path, kind: str, content: bytes
) -> None:
    with pytest.raises(CommandFailure, match="which is not supported"):
        read(written(tmp_path, "a", content), kind)


def test_what_looks_like_something_else_is_sent_as_prompts_where_that_is_said(tmp_path: Path) -> None:
    assert read(written(tmp_path, "a.txt", ARRAY), "txt") == [{"prompt": ARRAY}]
    assert read(written(tmp_path, "b", "one\t1\ntwo\t2"), "txt") == [
        {"prompt": "one\t1"},
        {"prompt": "two\t2"},
    ]
    assert read(written(tmp_path, "c.txt", "[INST] hello"))[0] == {"prompt": "[INST] hello"}
    assert len(read(written(tmp_path, "d.txt", "Hello, world; this is\na prompt, you see"))) == 2


@pytest.mark.parametrize(
    ("content", "how"),
    [
        (CHINESE_TABLE.encode("gbk"), {"encoding": "gb18030"}),
        (CHINESE_TABLE.encode("big5", "replace").replace(b"?", b"a"), {"encoding": "big5"}),
        (CHINESE_TABLE.encode("utf-8-sig"), {"encoding": "utf-8"}),
        (CHINESE_TABLE.encode("utf-16"), {"encoding": "utf-16-le"}),
        (CHINESE_TABLE.replace(",", "#").encode(), {"delimiter": "#"}),
    ],
)
def test_an_encoding_or_a_delimiter_that_is_given_counts(
    tmp_path: Path, content: bytes, how: dict[str, str]
) -> None:
    (request,) = read(written(tmp_path, "a.csv", content), **how)
    assert request["custom_id"] == "1"
    assert request["prompt"].startswith("\u4f60") or how["encoding"] == "big5"


def test_an_encoding_that_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandFailure, match="cannot be read as utf-16"):
        read(written(tmp_path, "a.csv", b"prompt\nabcd"), encoding="utf-16-le")
    with pytest.raises(CommandFailure, match="cannot be read as ascii"):
        read(written(tmp_path, "a.csv", "prompt\n\u00e9"), encoding="ascii")


@given(
    content=st.binary(max_size=200), kind=st.sampled_from([None, *KINDS]), name=st.sampled_from(["a", "a.gz"])
)
def test_no_file_ends_in_anything_but_requests_or_a_failure(
    tmp_path_factory: Any, content: bytes, kind: str | None, name: str
) -> None:
    path = written(tmp_path_factory.mktemp("any"), name, content)
    with suppress(CommandFailure):
        assert read(path, kind)


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16"])
def test_results_keep_the_columns_of_a_table_as_it_was_read(tmp_path: Path, encoding: str) -> None:
    table = CHINESE_TABLE.replace(",", "#") + "#\n2#b\n"
    source = written(tmp_path, "rows.csv", table.encode(encoding))
    out, job = tmp_path / "out.csv", Job(str(source), "csv", "", encoding, "#")
    ended = {"status": "succeeded", "result": None, "error": None}
    lines = [orjson.dumps({"index": n, "task_id": f"task_{n}", **ended}) for n in (0, 1)]
    assert write_results(lines, out, job) == 2
    head, first, second = csv.reader(out.read_text(encoding="utf-8").splitlines())
    assert head == ["custom_id", "prompt", "answer", "status", "error", "task_id"]
    assert first == ["1", CHINESE[0]["prompt"], "", "succeeded", "", "task_0"]
    assert second == ["2", "b", "", "succeeded", "", "task_1"]
