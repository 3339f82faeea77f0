"""JSON text on one line."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.platform.domain.json_text import as_utf8, compact, one_line, read_json
from app.tasks.domain.task import Status
from app.tasks.read_files import output_line
from app.tasks.store.batches import LineRow
from app.tasks.views import raw

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, st.sampled_from([None, 0, 2, "\t"]), st.booleans())
def test_whatever_python_writes_is_read_and_read_again_from_one_line(
    value: Any, indent: Any, ascii_only: bool
) -> None:
    body = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    document, text = read_json(body, orjson.loads)
    assert "\n" not in text
    assert orjson.dumps(orjson.loads(text)) == orjson.dumps(document)


@given(VALUES)
def test_one_line_changes_nothing_but_spacing(value: Any) -> None:
    pretty = json.dumps(value, indent=3)
    assert one_line(one_line(pretty)) == one_line(pretty)
    assert repr(json.loads(one_line(pretty))) == repr(value if not isinstance(value, tuple) else list(value))


@given(
    VALUES,
    st.sampled_from([None, 0, 2, "\t"]),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,  ", "\r\n:\t")]),
)
def test_whatever_the_spacing_the_stored_text_is_the_same(
    value: Any, indent: Any, between: tuple[str, str]
) -> None:
    spaced = json.dumps(value, indent=indent, separators=between)
    assert compact(spaced) == json.dumps(value, separators=(",", ":"))


@pytest.mark.parametrize("charset", ["gbk", "gb18030", "utf-16", "utf-16-le", "utf-32", "utf-8"])
@pytest.mark.parametrize("claimed", ["", "no-such", "base64", "iso-8859-1"])
def test_an_answer_in_another_charset_is_read_where_that_can_be_known(charset: str, claimed: str) -> None:
    document = {"content": "\u4e2d\u6587"}
    body = json.dumps(document, ensure_ascii=False).encode(charset)
    named = charset if charset.startswith("gb") else claimed
    assert read_json(as_utf8(body, named), orjson.loads)[0] == document


@given(st.binary(max_size=30))
def test_no_bytes_are_beyond_reading(body: bytes) -> None:
    try:
        _, text = read_json(body, orjson.loads)
    except ValueError:
        return
    orjson.loads(text)


@pytest.mark.parametrize("body", [b"[" * 3000 + b"]" * 3000, b'{"a":' * 5000, b"", b"NaNs", b"{'a': 1}"])
def test_what_is_no_json_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=""):
        read_json(body, orjson.loads)


PRETTY = json.dumps({"choices": [{"message": {"content": "two\nlines"}}]}, indent=2).replace("\n", "\r\n")


def test_an_older_pretty_result_breaks_no_line_on_its_way_out() -> None:
    row = LineRow(0, "task_1", "a", Status.SUCCEEDED, PRETTY, None, None, None, None)
    for written in (output_line(row), orjson.dumps({"result": raw(PRETTY)}) + b"\n"):
        assert written.count(b"\n") == 1
        assert b"\r" not in written
    assert orjson.loads(output_line(row))["response"]["body"] == json.loads(PRETTY)
