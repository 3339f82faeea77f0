"""What `penstock submit` makes of files, and of a template and a row."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st
from openpyxl import Workbook
from pyarrow import parquet

from app.platform.domain.errors import Invalid
from app.submission.domain.file_kind import TEXT_KINDS as KINDS
from app.submission.domain.file_kind import BadFile, Faults, fields_of, fill
from app.submission.read_file import Reading, Source
from app.submission.read_requests import Item, JsonValues, Request, RequestFile

ROW = {"text": "a {brace} in a value", "into": "French"}


def test_columns_are_put_in_and_values_are_left_alone() -> None:
    assert fill("Translate {text} into { into }", ROW) == "Translate a {brace} in a value into French"
    assert fill('{{"text": "{into}"}}', ROW) == '{"text": "French"}'


@pytest.mark.parametrize(
    "template", ["Greet {into", "Greet into}", "{}", "{{into}", '{"text": "x"', "{a{into}}"]
)
def test_a_lone_brace_is_refused_before_anything_is_paid_for(template: str) -> None:
    with pytest.raises(BadFile, match="brace"):
        fields_of(template)


def items(path: Path, kind: str | None = None, **how: Any) -> list[Item]:
    """As `penstock submit` and a batch over an uploaded file read it."""
    faults = Faults()
    with path.open("rb") as file:
        read = RequestFile(Source(file, path.name, path.name), Reading(kind or "", **how), faults)
        found = list(read)
    faults.check()
    return found


def read(path: Path, kind: str | None = None, **how: Any) -> list[Request]:
    return [item.request for item in items(path, kind, **how)]


def written(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def packed(content: bytes) -> bytes:
    """As gzip, without the time: contents are names of tests, which each process must find the same."""
    return gzip.compress(content, mtime=0)


def archive(name: str) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as packed_:
        packed_.writestr(zipfile.ZipInfo(name), "<x/>")
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
GREETED = [
    {"prompt": "\u4f60\u597d\uff0c\u4e16\u754c"},
    {"prompt": "\u8bf7\u603b\u7ed3\u8fd9\u6bb5\u6587\u5b57"},
]


def workbook(**sheets: list[list[Any]]) -> bytes:
    held, book = io.BytesIO(), Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(held)
    return held.getvalue()


def parquet_file(**columns: Any) -> bytes:
    held = io.BytesIO()
    parquet.write_table(pa.table(columns), held)
    return held.getvalue()


def prompts(*texts: str) -> bytes:
    return "\n".join(["prompt", *texts, ""]).encode()


BINARY: list[tuple[str, Callable[[], bytes], dict[str, Any], list[Request]]] = [
    ("a.csv.bz2", lambda: bz2.compress(TABLE.encode()), {}, NAMED),
    ("a.csv.xz", lambda: lzma.compress(TABLE.encode()), {}, NAMED),
    ("a.csv.zst", lambda: zstd.compress(TABLE.encode()), {}, NAMED),
    ("a.jsonl", lambda: zstd.compress(b'"a"\n') + zstd.compress(b'"b"'), {}, AB),
    ("a.xlsx", lambda: workbook(S=[["custom_id", "prompt"], [1, "a"], [], [None, None], [2.0, "b"]]), {}, NAMED),
    ("a.csv", lambda: workbook(S=[["prompt"], ["a"], ["b"]]), {}, AB),
    ("a", lambda: workbook(Empty=[], S=[["prompt", "n"], ["a", 1], ["b"]]), {}, AB),
    ("a", lambda: workbook(X=[["prompt"], ["x"]], S=[["prompt"], ["a"], ["b"]]), {"sheet": "S"}, AB),
    ("a", lambda: workbook(X=[["prompt"], ["x"]], S=[["prompt"], ["a"], ["b"]]), {"sheet": "2"}, AB),
    ("a", lambda: workbook(S=[["n", "d"], [1.5, date(2026, 1, 2)], [True, 3]]), {"template": "{n} {d}"},
     [{"prompt": "1.5 2026-01-02"}, {"prompt": "TRUE 3"}]),
    ("a.parquet", lambda: parquet_file(custom_id=[1, 2], prompt=["a", "b"]), {}, NAMED),
    ("a", lambda: parquet_file(text=["a", None, "b"]), {"column": "text"}, AB),
    ("a", lambda: parquet_file(at=pa.array([1_000_000_001], pa.timestamp("ns", "UTC")), prompt=["a"]),
     {"template": "{at}"}, [{"prompt": "1970-01-01T00:00:01+00:00"}]),
    ("a", lambda: parquet_file(custom_id=[1.0, float("nan")], prompt=["a", "b"]), {},
     [{"custom_id": "1", "prompt": "a"}, {"prompt": "b"}]),
    ("a", lambda: parquet_file(prompt=[[{"role": "user", "content": "a"}]]), {},
     [{"messages": [{"role": "user", "content": "a"}]}]),
    ("a", lambda: parquet_file(messages=[[{"role": "user", "content": "a"}]]), {},
     [{"messages": [{"role": "user", "content": "a"}]}]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "how", "requests"), BINARY)
def test_a_binary_file_is_read_by_its_content(
    tmp_path: Path, name: str, content: Callable[[], bytes], how: dict[str, Any], requests: list[Request]
) -> None:
    assert read(written(tmp_path, name, content()), **how) == requests


NEIGHBOURS: list[tuple[str, bytes | str, dict[str, Any], list[Request]]] = [
    ("a", '{"prompt":"a"}{"prompt":"b"}', {}, AB),
    ("a", '{"prompt":"a"},\n{"prompt":"b"},\n', {}, AB),
    ("a", "\n".join(json.dumps(one, indent=2) for one in AB), {}, AB),
    ("a.txt", json.dumps(AB, indent=0), {}, AB),
    ("a", '["a"]\n["b"]\n', {}, AB),
    ("a.csv", json.dumps(AB), {}, AB),
    ("a.jsonl", TABLE, {"kind": "csv"}, NAMED),
    ("a.jsonl", TABLE.replace(",", "\t"), {}, NAMED),
    ("a.json", TABLE, {}, NAMED),
    ("a.csv", "sep=;\ncustom_id;prompt\n1;a\n2;b\n", {}, NAMED),
    ("a.csv", "custom_id;prompt\n1;a, b, c\n", {}, [{"custom_id": "1", "prompt": "a, b, c"}]),
    ("a", "text;label\na;1\nb;2\n", {"column": "text"}, AB),
    ("a.txt", "a\rb\r", {}, AB),
    ("a.csv", prompts(*(one["prompt"] for one in GREETED)).decode().encode("gbk"), {}, GREETED),
    ("a.csv", prompts("\u8acb\u7e3d\u7d50\u9019\u6bb5\u6587\u5b57").decode().encode("big5"), {},
     [{"prompt": "\u8acb\u7e3d\u7d50\u9019\u6bb5\u6587\u5b57"}]),
    ("a.csv", "prompt\nol\u00e9\n".encode("cp1252"), {}, [{"prompt": "ol\u00e9"}]),
    ("a.csv", "prompt\nit\u2019s \u201cfine\u201d\n".encode("cp1252"), {}, [{"prompt": "it\u2019s \u201cfine\u201d"}]),
    ("a.txt", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440".encode("cp1251"), {},
     [{"prompt": "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440"}]),
    ("a.jsonl", '"\u3053\u3093\u306b\u3061\u306f\u4e16\u754c"'.encode("cp932"), {},
     [{"prompt": "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c"}]),
    ("a.csv", ("prompt\n" + "ok\n" * 60_000 + "Gr\u00f6\u00dfe\n").encode("cp1252"), {},
     [{"prompt": "ok"}] * 60_000 + [{"prompt": "Gr\u00f6\u00dfe"}]),
    ("a.csv", TABLE.encode("utf-32-le"), {}, NAMED),
    ("a.csv", b"prompt\n" + b"ok\n" * 60_000 + "\u8bf7\u7ffb\u8bd1\u8fd9\u6bb5\u6587\u5b57".encode("gbk"), {},
     [{"prompt": "ok"}] * 60_000 + [{"prompt": "\u8bf7\u7ffb\u8bd1\u8fd9\u6bb5\u6587\u5b57"}]),
    ("a.csv", "prompt\n5 \u20ac f\u00fcr alles\n".encode("iso8859-15"), {}, [{"prompt": "5 \u20ac f\u00fcr alles"}]),
    ("a.csv", TABLE + "\x1a", {}, NAMED),
    ("a.txt", "a\r\nb\r\n\x1a", {}, AB),
    ("a.jsonl", '{"prompt": "a"}\r\n{"prompt": "b"}\r\n\x1a', {}, AB),
    ("a", '\x1e{"prompt": "a"}\n\x1e{"prompt": "b"}\n', {}, AB),
    ("a.csv", 'custom_id, prompt\n1, "a, b"\n2, b\n', {},
     [{"custom_id": "1", "prompt": "a, b"}, {"custom_id": "2", "prompt": "b"}]),
    ("a.jsonl", '{"q": "a", "custom_id": 1}\n{"q": "b", "custom_id": "2"}\n', {"column": "q"}, NAMED),
    ("a.json", '[{"q": "a", "n": 1}, {"q": "b", "n": 2.0}]', {"template": "{q}{n}"},
     [{"prompt": "a1"}, {"prompt": "b2"}]),
    ("a.jsonl", '{"prompt": [{"role": "user", "content": "a"}]}\n', {"column": "prompt"},
     [{"messages": [{"role": "user", "content": "a"}]}]),
    ("prompts.2026", "a\nb", {}, AB),
    ("a", "prompt\na\nb\n", {}, AB),
    ("a.txt", "[Note: this] a\n{{name}}: b\n", {}, [{"prompt": "[Note: this] a"}, {"prompt": "{{name}}: b"}]),
    ("a.txt", "# b\na --- b | c\ndata: what?\n", {},
     [{"prompt": "# b"}, {"prompt": "a --- b | c"}, {"prompt": "data: what?"}]),
    ("a.csv", "prompt\n\u3053\u3093\u306b\u3061\u306f\n".encode("iso2022_jp"), {},
     [{"prompt": "\u3053\u3093\u306b\u3061\u306f"}]),
    ("a.jsonl", '{"id": 7, "prompt": "a"}\n{"id": 8, "prompt": "b"}\n', {"column": "prompt"}, AB),
    ("a.list", "a\nb", {}, AB),
    ("a.md", "a\nb", {"kind": "txt"}, AB),
    ("a.jsonl", '{"prompt": "cut \\ud83d"}\n"b"', {}, [{"prompt": "cut \ufffd"}, {"prompt": "b"}]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "how", "requests"), NEIGHBOURS, ids=[str(n) for n in range(len(NEIGHBOURS))]
)
def test_a_text_file_is_read_as_people_write_it(
    tmp_path: Path, name: str, content: bytes | str, how: dict[str, Any], requests: list[Request]
) -> None:
    assert read(written(tmp_path, name, content), **how) == requests


REFUSED: list[tuple[str, bytes | str, str, str]] = [
    ("a.csv", OPEN_QUOTE, "row 400: opens a quote that is never closed", "Close it"),
    ("a.csv", LATER_QUOTE, "row 400: has a stray quote", "Close it"),
    ("a.csv", "text,id,text\na,1,b\n", "two columns named 'text'", "Rename"),
    ("a.csv", "text, text\na,b\n", "two columns named 'text'", "Rename"),
    ("a.csv", "Prompt,n\na,1\n", "no column 'prompt'; columns: Prompt, n", '--column "Prompt"'),
    ("a.csv", "propmt,n\na,1\n", "no column 'prompt'", "{propmt}"),
    ("a.csv", "prompt,n\na,1,2\n", "row 2: has 3 columns", "--delimiter"),
    ("a.csv", "prompt\na,b\n", "row 2: has 2 columns", "--delimiter"),
    ("a.csv", "prompt,n\n", "a header and no rows", "Nothing"),
    *((f"a.{kind}", "", "contains no requests", "Nothing") for kind in (*KINDS, "json", "gz")),
    ("a", "", "contains no requests", "Nothing"),
    ("a.txt", " \n\n", "contains no requests", "Nothing"),
    ("a.json", "[]", "contains no requests", "Nothing"),
    ("a.json", '[{"prompt": "a"}', "is not JSON", ""),
    ("a.json", "[1]", "item 1: is neither", ""),
    ("a.json", '["a", ["b"]]', "item 2: is neither", ""),
    ("a.jsonl", '"a"\n{', "line 2: is not JSON", ""),
    ("a.jsonl", '{"url": "/v1/embeddings", "body": {}}', "line 1: its url is '/v1/embeddings'", "Batch API"),
    ("a.txt", TABLE, "a table (csv)", "--kind"),
    ("a.txt", TABLE.replace(",", "\t"), "a table (tsv)", "--kind"),
    ("a", "one\t1\ntwo\t2\n", "a table (tabs)", "--kind"),
    ("a.xlsx", archive("xl/workbook.xml"), "a damaged Excel workbook", "save it again"),
    ("a.csv", archive("word/document.xml"), "a Word document", "CSV"),
    ("a", archive("a.txt"), "a ZIP archive", "Unpack"),
    ("a.txt", b"PK\x03\x04broken", "a damaged ZIP archive", "Unpack"),
    ("a.parquet", b"PAR1\x15\x04", "a damaged Parquet file", "JSON lines"),
    ("a.jsonl.zst", b"\x28\xb5\x2f\xfd\x00", "corrupt zstd", "again"),
    ("a.jsonl.xz", b"\xfd7zXZ\x00nonsense", "corrupt xz", "again"),
    ("a.jsonl.bz2", b"BZhnonsense", "corrupt bzip2", "again"),
    ("a.txt", b"%PDF-1.7", "a PDF", "CSV"),
    ("a.txt", b"some\x00\x01\x02\x00\x00\x00text\x00\x00", "NUL", "CSV"),
    ("a.csv", "Question,n\na,1\n", "no column 'prompt'", '--column "Question"'),
    ("a.csv", "prompt,n\na\x00b,1\n", "row 2: holds a NUL", "Remove"),
    ("a.csv", "prompt,n\n ,1\n", "row 2: has no prompt", "leave the row out"),
    ("a.csv", b"prompt\nd\xc3\xa9j\xc3\xa0\nbr\xe9\n\xc3\xa9t\xc3\xa9\n", "row 3: is not UTF-8", "--encoding"),
    ("a.csv", ",".join(f"c{n}" for n in range(1_000_000)), "has 1,000,000 columns", "Keep"),
    ("a.csv", "prompt\n" + "x" * 11_000_000, "row 2: is longer", "quote"),
    ("a.json", "[" * 100_000 + "]" * 100_000, "item 1: is not JSON", ""),
    ("a.json", '{"prompt": ' + "[" * 100_000, "line 1: is not JSON", ""),
    ("a.json", '["a", "b"', "item 3: is not JSON: the array ends", "cut off"),
    ("a.html", "<!DOCTYPE html><p>x", "HTML", "CSV"),
    ("a", "text,label\na,1\nb,2\n", "looks like a table", "--kind"),
    ("a.png", b"\x89PNG\r\n\x1a\n\x00", "an image (PNG)", "CSV"),
    ("a.gz", packed(packed(b"a")), "inside a compressed file", "Unpack"),
    ("a.txt", b"\x01\x02\x03\x04binary\x05\x06\x07", "is not text", "CSV"),
    ("a.csv.gz", packed(TABLE.encode())[:-12], "corrupt gzip", "again"),
    ("a.csv.gz", b"\x1f\x8b\x08nonsense", "corrupt gzip", "again"),
    *((name, "Hello\nthere\n", f"its name ends with .{name[2:]}", "--kind txt") for name in ("a.py", "a.log", "a.md")),
    ("a.xml", "<requests><prompt>a</prompt></requests>", "its name ends with .xml", "--kind txt"),
    ("a.txt", "| id | question |\n|---|:---:|\n| 1 | a |\n", "a table drawn with characters", "CSV"),
    ("a", "+----+\n| id |\n+----+\n", "a table drawn with characters", "CSV"),
    ("a", "- prompt: a\n- prompt: b\n", "looks like YAML", "JSON lines"),
    ("a.txt", "---\nrequests:\n  - prompt: a\n", "looks like YAML", "JSON lines"),
    ("a.txt", 'data: {"prompt": "a"}\n\ndata: [DONE]\n', "a stream of events", "JSON lines"),
    ("a.txt", "{'prompt': 'a'}\n", "is not JSON", "double quotes"),
    ("a.txt", "{\u201cprompt\u201d: \u201ca\u201d}", "is not JSON", "double quotes"),
    ("a", "[{prompt: 'a'}]", "is not JSON", "double quotes"),
    ("a.json", '[\n  // first\n  {"prompt": "a"}\n]', "item 1: is a comment", "Remove"),
    ("a.json", '{"prompt": "a"} // last\n"b"\n', "line 1: is a comment", "Remove"),
    ("a.jsonl", '# mine\n{"prompt": "a"}\n', "line 1: is a comment", "Remove"),
    ("a.jsonl", "id,question\n1,a\n", "a table (columns), not JSON", "--kind csv"),
    ("a.jsonl", '"a"\n{"prompt": "' + "x" * 11_000_000 + '"}\n"b"', "line 2: is longer", "Split"),
    ("a.txt", b"\r\n%PDF-1.7", "a PDF", "CSV"),
    *((f"a.{kind}", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer", "lfs pull")
      for kind in ("txt", "jsonl", "csv", "parquet")),
    ("a.dta", b"<stata_dta><header>", "a Stata file", "CSV"),
    ("a.gz", packed(b"\0" * 257 + b"ustar"), "a tar archive inside", "Unpack"),
    ("a.txt", "\u8bf7\u7ffb\u8bd1\u8fd9\u6bb5\u6587\u5b57\u4e00\n".encode("utf-16-le"), "is not text", "utf-16-le"),
    ("a.csv", "All questions\n\ncustom_id,prompt\n1,a\n", "its header is in row 3", "Remove the rows above"),
    ("a.csv", "# exported\nid,text\n1,a\n", "no column 'prompt'", "first row"),
    ("a.csv", "prompt,n\n\n\na\n", "row 4: has 1 column", "--delimiter"),
    ("a.json", '{"requests": [{"prompt": "a"}]}', "holds a list under 'requests'", "jq .requests"),
    ("a.json", '{"model": "m", "data": ["a"]}', "holds a list under 'data'", "jq .data"),
    ("a.json", '{"custom_id": ["1", "2"], "prompt": ["a", "b"]}', "a table by columns", "orient"),
    ("a.json", '{"q1": {"prompt": "a"}, "q2": {"prompt": "b"}}', "several requests in one object", "one object a line"),
    ("a.json", '[["prompt"]]', "but a list", "as an object"),
    ("a.jsonl", '{"custom_id": "1", "params": {"max_tokens": 1}}', "Anthropic's Message Batches", "messages"),
    ("a.jsonl", '{"recordId": "1", "modelInput": {"messages": []}}', "a Bedrock batch", "messages"),
    ("a.jsonl", '{"key": "1", "request": {"contents": []}}', "another API's batch", "messages"),
    ("a.jsonl", '{"conversations": [{"from": "human", "value": "a"}]}', "ShareGPT", "messages"),
    ("a.jsonl", '{"id": "r", "custom_id": "1", "response": {}, "error": null}', "a result of a batch", "input file"),
    ("a.json", '[{"role": "user", "content": "a"}]', "one message, not a request", "all messages"),
    ("a.jsonl", '{"id": 1, "Question": "a"}', "no field 'prompt'; fields: id, Question", '--column "Question"'),
    ("a.jsonl", '{"prompt": [{"role": "user"}], "custom_id": "1"}', "a list of messages", "--column prompt"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "why", "hint"), REFUSED, ids=[str(n) for n in range(len(REFUSED))]
)
def test_what_is_not_read_is_refused_with_what_to_do(
    tmp_path: Path, name: str, content: bytes | str, why: str, hint: str
) -> None:
    path = written(tmp_path, name, content)
    with pytest.raises(BadFile) as caught:
        read(path)
    (fault,) = caught.value.faults
    assert str(fault).startswith(name)
    assert why in str(fault)
    assert hint in fault.hint


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [
    archive("a.txt"), b"PAR1\x15", packed(archive("xl/workbook.xml")), b"\x89PNG\r\n\x1a\n", b"GIF89a",
])  # fmt: skip
def test_what_is_no_text_is_refused_whatever_it_is_said_to_be(
    tmp_path: Path, kind: str, content: bytes
) -> None:
    with pytest.raises(BadFile, match=r"which is not supported|damaged"):
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
    with pytest.raises(BadFile, match="no column"):
        read(written(tmp_path, "a.csv", b"prompt\nabcd"), encoding="utf-16-le")
    with pytest.raises(BadFile, match="row 2: is not ASCII"):
        read(written(tmp_path, "a.csv", "prompt\n\u00e9"), encoding="ascii")


def faults(path: Path, **how: Any) -> list[str]:
    with pytest.raises(BadFile) as caught:
        read(path, **how)
    return [fault.where for fault in caught.value.faults]


def test_every_fault_is_listed_up_to_a_hundred(tmp_path: Path) -> None:
    ragged = "prompt,n\na,1\nb\nc,2,3\n,4\n" + '"d",5\n'
    assert faults(written(tmp_path, "a.csv", ragged)) == ["row 3", "row 4", "row 5"]
    broken = '{"prompt": "a"\n{"prompt": "b"}\n{"prompt": "c",}\nnonsense here\n[1]\n{"prompt": "d"}\n'
    assert faults(written(tmp_path, "a.jsonl", broken)) == ["line 1", "line 3", "line 4", "item 1"]
    many = "prompt,n\n" + "a\n" * 500
    assert faults(written(tmp_path, "b.csv", many)) == [f"row {n}" for n in range(2, 102)]
    then_open = "prompt,n\na\n" + '"b,1\n'
    assert faults(written(tmp_path, "c.csv", then_open)) == ["row 2", "row 3"]
    doubled = "a,b,a,b,prompt\n"
    assert len(faults(written(tmp_path, "d.csv", doubled))) == 2


@pytest.mark.parametrize(
    ("cell", "why", "hint"),
    [("#N/A", "an error of the spreadsheet", "formula"), ("=1+1", "no prompt", "save the workbook")],
)
def test_a_formula_without_a_value_is_no_prompt(tmp_path: Path, cell: str, why: str, hint: str) -> None:
    with pytest.raises(BadFile) as caught:
        read(written(tmp_path, "a.xlsx", workbook(S=[["custom_id", "prompt"], [1, cell], [2, "b"]])))
    (fault,) = caught.value.faults
    assert fault.where == "row 2"
    assert why in str(fault)
    assert hint in fault.hint


def test_another_field_beside_the_prompt_is_named_with_the_option_that_keeps_it() -> None:
    item = Item("a", "line 1", 1, {}, value={"id": 1, "prompt": "a"})
    assert "--column prompt" in item.fault(Invalid("id: unknown field")).hint
    assert not item.fault(Invalid("prompt: must not be empty")).hint


def test_a_sheet_is_asked_for_where_several_hold_something(tmp_path: Path) -> None:
    path = written(tmp_path, "a.xlsx", workbook(One=[["prompt"], ["a"]], Two=[["prompt"], ["b"]]))
    with pytest.raises(BadFile, match="has 2 sheets: One, Two") as caught:
        read(path)
    assert caught.value.faults[0].hint == 'Choose one, such as --sheet "One".'
    with pytest.raises(BadFile, match="no sheet 'Three'; sheets: One, Two"):
        read(path, sheet="Three")


@pytest.mark.parametrize(("library", "name", "content"), [
    ("openpyxl", "a.xlsx", workbook(S=[["prompt"], ["a"]])), ("pyarrow", "a.parquet", parquet_file(prompt=["a"])),
], ids=["openpyxl", "pyarrow"])  # fmt: skip
def test_what_is_missing_is_said_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, name: str, content: bytes
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(BadFile, match=f"needs {library}") as caught:
        read(written(tmp_path, name, content))
    assert caught.value.faults[0].hint == f'Install it: {sys.executable} -m pip install "penstock[files]"'


def peak(path: Path, **how: Any) -> tuple[str, float]:
    """What reading a hostile file says, and the most memory that it takes, in MB."""
    tracemalloc.start()
    try:
        with pytest.raises(BadFile) as caught:
            read(path, **how)
        return str(caught.value), tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def bomb(part: str, content: bytes, times: int) -> bytes:
    held, rest = io.BytesIO(), workbook(S=[["prompt"], ["a"]])
    with zipfile.ZipFile(io.BytesIO(rest)) as old, zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if name != part:
                new.writestr(name, old.read(name))
        with new.open(part, "w", force_zip64=True) as file:
            for _ in range(times):
                file.write(content)
    return held.getvalue()


MIB = 1024 * 1024
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "gzip of one line": (lambda: packed(b'"' + b"x" * 30 * MIB), "longer than|is not JSON"),
    "zstd of blanks": (lambda: zstd.compress(b" " * 30 * MIB), "longer than|more than"),
    "xz of a quote": (
        lambda: lzma.compress(b'prompt,n\n"' + b"a\n" * 5 * MIB, preset=0),
        "row 2: is longer",
    ),
    "sheet of one cell": (lambda: bomb("xl/worksheets/sheet1.xml", b"x" * MIB, 80), "too large"),
    "strings": (lambda: bomb("xl/sharedStrings.xml", b"<si><t>x</t></si>" * 65536, 130), "too large"),
    "styles": (lambda: bomb("xl/styles.xml", b" " * MIB, 20), "too large"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_holds_very_much_takes_little_memory(tmp_path: Path, name: str) -> None:
    content, why = BOMBS[name]
    said, megabytes = peak(written(tmp_path, "a", content()), longest=MIB, most_bytes=20 * MIB)
    assert re.search(why, said), said
    assert megabytes < 100


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).map(str.strip).filter(bool)


@given(
    values=st.lists(st.fixed_dictionaries({"prompt": TEXTS, "custom_id": st.uuids().map(str)}), min_size=1),
    indent=st.sampled_from([None, 0, 1, 4]),
    ascii_only=st.booleans(),
    form=st.sampled_from(["array", "lines", "commas", "joined"]),
    size=st.integers(1, 300),
)
def test_json_in_any_spacing_and_any_pieces_gives_the_same_requests(
    values: list[Request], indent: int | None, ascii_only: bool, form: str, size: int
) -> None:
    written_ = [json.dumps(value, indent=indent, ensure_ascii=ascii_only) for value in values]
    between = {"array": ",\n", "lines": "\r\n", "commas": ",\n", "joined": ""}[form]
    text = between.join(written_)
    raw = (f"[{text}]" if form == "array" else text).encode()
    pieces = iter([raw[place : place + size] for place in range(0, len(raw), size)])
    assert [json.loads(value.raw) for value in JsonValues(pieces, 10_000)] == values


@given(
    texts=st.lists(TEXTS, min_size=1),
    delimiter=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "gb18030"]),
)
def test_a_table_in_any_dialect_gives_the_same_requests(
    tmp_path_factory: Any, texts: list[str], delimiter: str, end: str, encoding: str
) -> None:
    held = io.StringIO(newline="")
    writer = csv.writer(held, delimiter=delimiter, lineterminator=end)
    writer.writerows([["custom_id", "prompt"], *([f"n{n}", text] for n, text in enumerate(texts))])
    path = written(tmp_path_factory.mktemp("any"), "a.csv", held.getvalue().encode(encoding))
    how = {"encoding": encoding} if encoding == "gb18030" else {}
    assert [one["prompt"] for one in read(path, **how)] == texts


@given(
    content=st.binary(max_size=200), kind=st.sampled_from([None, *KINDS]), name=st.sampled_from(["a", "a.gz"])
)
def test_no_file_ends_in_anything_but_requests_or_a_failure(
    tmp_path_factory: Any, content: bytes, kind: str | None, name: str
) -> None:
    path = written(tmp_path_factory.mktemp("any"), name, content)
    with suppress(BadFile):
        assert read(path, kind)
