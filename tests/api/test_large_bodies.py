"""Bodies that would cost far more than they weigh: refused at their first fault, before they become values.

CPU time is measured, not the clock's: other work runs beside. Memory is the process's own peak, taken in a process of
its own for each body.
"""

import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import SchemaValidator

from app.api import access_shapes, admin_dispatcher, batch_json, openai_batches, tasks, warming
from app.api.batch_json import read_batch
from app.api.body import Query, TasksQuery, read_form
from app.platform.domain import json_text
from app.platform.domain.errors import Invalid
from app.platform.domain.json_text import check_values
from app.submission.bodies import MOST_MESSAGES, MOST_NAMES, BatchBody, BatchLine, Body, TaskBody
from app.submission.openai_bodies import ChatBody, FileLine, parse_line
from app.submission.validation import parse, parse_json

MANY = 2_000_000
MOST_CPU = 0.5  # seconds
MOST_MEMORY = 100  # MB above the body's own size

READERS: dict[str, Callable[[bytes], object]] = {
    "task": lambda raw: parse(TaskBody, parse_json(raw)),
    "chat": lambda raw: parse(ChatBody, parse_json(raw)),
    "batch": read_batch,
    "file line": parse_line,
    "warming": lambda raw: parse(warming.WarmBody, parse_json(raw)),
}


def measured(work: Callable[[], object]) -> tuple[Any, float, float]:
    """What it came to, seconds of CPU, and MB by which memory rose, in a process of its own."""
    pipe_out, pipe_in = os.pipe()
    if not (child := os.fork()):
        try:
            told = orjson.dumps(_measure(work))
        finally:
            os.write(pipe_in, told)
            os._exit(0)
    os.close(pipe_in)
    with os.fdopen(pipe_out, "rb") as pipe:
        found = orjson.loads(pipe.read())
    os.waitpid(child, 0)
    return tuple(found)


def _measure(work: Callable[[], object]) -> tuple[Any, float, float]:
    before, began = _peak(), time.process_time()
    found = work()
    return found, time.process_time() - began, _peak() - before


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def elements(element: bytes, before: bytes, after: bytes = b"]}") -> bytes:
    return before + (element + b",") * MANY + element + after


def names(before: bytes, value: bytes, after: bytes) -> bytes:
    return before + b",".join(b'"%d":%s' % (n, value) for n in range(MANY // 4)) + after


def repeated(mark: bytes, before: bytes, after: bytes = b"") -> bytes:
    return before + mark * 5_000_000 + after


LINE = b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":'
WRONG = [b"1", b"{}", b"[]", b'""', b'"ab"', b"null", b"0.5", b'{"a":1}']
CASES = [
    *((reader, (elements, wrong, b'{"messages":[')) for reader in ("task", "chat") for wrong in WRONG),
    *(
        ("batch", (elements, wrong, b'{"requests":['))
        for wrong in [*WRONG, b'{"prompt":1}', b'{"nonsense":12345}']
    ),
    *(("file line", (elements, wrong, LINE + b'{"messages":[', b"]}}")) for wrong in WRONG),
    *(("warming", (elements, wrong, b'{"budget":"1","requests":[')) for wrong in WRONG),
    *((reader, (names, b'{"metadata":{', b"1", b"}}")) for reader in ("task", "chat", "batch")),
    *((reader, (names, b'{"metadata":{', b'""', b"}}")) for reader in ("task", "chat", "batch")),
    *((reader, (names, b"{", b"1", b"}")) for reader in ("task", "chat", "batch", "warming", "file line")),
    ("chat", (names, b'{"messages":[{"role":"user","content":"x"}],', b"1", b"}")),
    ("task", (names, b'{"prompt":"x","parameters":{', b"1", b"}}")),
    ("task", (names, b'{"prompt":"x","cache":{', b"1", b"}}")),
    ("batch", (names, b'{"requests":[{', b"1", b"}]}")),
    ("batch", (elements, b"1", b'{"requests":[{"messages":[', b"]}]}")),
    ("batch", (elements, b"{}", b'{"requests":[[', b"]]}")),
    ("batch", (elements, b"1", b'{"requests":[{"prompt":"x"}],"metadata":[')),
    ("batch", (elements, b"{}", b"[", b"]")),
    ("batch", (elements, b'"requests":1', b"{", b"}")),
    ("task", (repeated, b"x", b'{"', b'":1}')),
    ("task", (repeated, b"x,", b'{"prompt":"')),
    ("batch", (repeated, b"[", b'{"requests":[')),
    ("task", (repeated, b"[", b"")),
]


@pytest.mark.parametrize(("reader", "made"), CASES, ids=[f"{reader} {made[1:]}" for reader, made in CASES])
def test_a_wrong_body_of_any_size_is_refused_at_little_cost(reader: str, made: tuple[Any, ...]) -> None:
    raw = made[0](*made[1:])

    def read() -> tuple[int, int] | None:
        try:
            READERS[reader](raw)
        except Invalid as refusal:
            return refusal.status, len(refusal.message)
        return None

    (status, said), cpu, memory = measured(read)
    assert status in (400, 413)
    assert said < 1_000
    assert cpu < MOST_CPU
    assert memory < MOST_MEMORY


def test_every_list_and_object_that_callers_send_stops_at_its_first_fault() -> None:
    """Of whatever model there is, and will be."""
    modules = (access_shapes, admin_dispatcher, openai_batches, tasks, warming)
    assert modules  # imported so that their models are known
    open_ended = [f"{model.__name__}: {kind}" for model in _models() for kind in _patient(model)]
    assert open_ended == []


def _models() -> list[type[Any]]:
    found: list[type[Any]] = [FileLine]
    for model in [*found, Body, Query]:
        found += model.__subclasses__()
    for model in found:
        found += [under for under in model.__subclasses__() if under not in found]
    assert {TaskBody, ChatBody, BatchBody, access_shapes.PolicyBody} <= set(found)
    return found


def _patient(model: type[Any]) -> list[str]:
    assert isinstance(model.__pydantic_validator__, SchemaValidator)
    found: list[str] = []

    def look(schema: Any) -> None:
        if isinstance(schema, dict):
            if schema.get("type") in ("list", "dict") and not schema.get("fail_fast"):
                found.append(str(schema)[:80])
            for name, inner in schema.items():
                if name not in ("serialization", "metadata", "cls", "config"):
                    look(inner)
        elif isinstance(schema, list | tuple):
            for inner in schema:
                look(inner)

    look(model.__pydantic_core_schema__)
    return found


def test_objects_and_conversations_have_a_most_of_their_own() -> None:
    said = {"role": "user", "content": "x"}
    assert parse(TaskBody, {"messages": [said] * MOST_MESSAGES})
    for model, body, part in [
        (TaskBody, {"messages": [said] * (MOST_MESSAGES + 1)}, "messages: must hold at most 10000"),
        (ChatBody, {"messages": [said], **{str(n): 1 for n in range(MOST_NAMES)}}, "at most 200 fields"),
        (BatchBody, {"requests": [{str(n): 1 for n in range(MOST_NAMES + 1)}]}, "requests[0]: must hold"),
        (TasksQuery, {str(n): "1" for n in range(MOST_NAMES + 1)}, "at most 200 fields"),
        (TaskBody, {"prompt": "x", "parameters": {str(n): 1 for n in range(201)}}, "parameters: must hold"),
    ]:
        with pytest.raises(Invalid) as caught:
            parse(model, body)
        assert part in caught.value.message
        assert caught.value.status == 400


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)
LINES = st.lists(
    st.just({"prompt": "x"}) | st.dictionaries(st.sampled_from(["prompt", "model"]), JSON) | JSON
)
OPTIONS = st.dictionaries(
    st.sampled_from(["model", "priority", "metadata", "batch_size", "zz", 'a"]}']), JSON
)


def read_whole(raw: bytes) -> BatchBody:
    return parse(BatchBody, parse_json(raw))


def outcome(read: Any) -> Any:
    try:
        return read()
    except Invalid as refusal:
        return refusal.status, "refused"


@given(OPTIONS, LINES, OPTIONS, st.sampled_from([0, orjson.OPT_INDENT_2]))
def test_a_batch_read_by_parts_is_what_it_is_when_read_whole(
    before: dict[str, Any], lines: list[Any], after: dict[str, Any], spacing: int
) -> None:
    raw = orjson.dumps({**before, "requests": lines, **after}, option=spacing)
    assert outcome(lambda: read_batch(raw)) == outcome(lambda: parse(BatchBody, parse_json(raw)))


@given(st.binary(max_size=40) | JSON.map(orjson.dumps), st.integers(0, 60), st.binary(max_size=3))
def test_any_bytes_read_by_parts_are_refused_as_those_read_whole(raw: bytes, cut: int, put: bytes) -> None:
    for body in (raw, b'{"requests":[' + raw, b'{"requests":[{"prompt":"x"}]}'[:cut] + put):
        assert outcome(partial(read_batch, body)) == outcome(partial(read_whole, body))


def test_the_place_of_a_fault_counts_from_the_beginning_of_the_body() -> None:
    with pytest.raises(Invalid, match=r"line 3 column 7"):
        read_batch(b'{"requests":[\n{"prompt":"x"},\n{"a": nul}]}')


@pytest.mark.parametrize(
    "end", ['{"prompt": nul}]}', '{"prompt":"x"}}', '{"prompt":"x"} 1]}', '],"n":tru}', "{"]
)
def test_requests_before_a_syntax_error_are_parsed_once(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    parsed: list[bytes] = []

    def recorded(raw: bytes, **more: Any) -> Any:
        parsed.append(raw)
        return parse_json(raw, **more)

    monkeypatch.setattr(batch_json, "parse_json", recorded)
    request = '{"prompt":"häéllo 😀"},'
    raw = ('{"requests":[' + (request * 10 + "\n") * 100 + request * 10 + end).encode()
    raw = raw.replace(b",]", b"]")
    assert outcome(lambda: read_batch(raw)) == outcome(lambda: parse(BatchBody, parse_json(raw)))
    assert sum(body.count(b'"prompt"') for body in parsed) <= raw.count(b'"prompt"') + 2


@given(st.lists(JSON))
def test_values_are_counted_as_they_are_and_never_those_in_texts(values: list[Any]) -> None:
    raw = orjson.dumps(values)
    check_values(raw, _count(values) + 1)
    check_values(orjson.dumps([raw.decode()] * 3), 3)
    if _count(values) > 2:
        with pytest.raises(Invalid):
            check_values(raw, 2)


def _count(value: Any) -> int:
    """As the text shows them: a bracket, or a comma, for each."""
    if not isinstance(value, list | dict):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(len(value) - 1, 0) + sum(map(_count, inner))


def test_a_long_text_of_many_commas_and_brackets_is_taken() -> None:
    content = '{"a":[1,2,3]},\\"' * 300_000
    raw = orjson.dumps({"messages": [{"role": "user", "content": content}]})
    assert parse(BatchLine, parse_json(raw)).messages


def blanks(blank: bytes) -> Iterable[bytes]:
    return (blank * (64 * 1024 // len(blank)) for _ in range(512 * 16))


@pytest.mark.parametrize("blank", [b"\n", b"\r\n", b" \n", b"\t\n\n", b" ", b"\r"])
def test_half_a_gib_of_blanks_costs_little_and_holds_nothing(blank: bytes) -> None:
    def read() -> int | None:
        try:
            return len(list(json_text.lines(blanks(blank), 10_000)))
        except Invalid as refusal:
            return refusal.status

    found, cpu, memory = measured(read)
    assert found == (400 if b"\n" in blank else 0)
    assert cpu < 5
    assert memory < 10


def test_as_many_blank_lines_as_are_let_pass_cost_little() -> None:
    made = [b"\n" * 50_000 + b'{"a":1}\n'] * 20
    (last, cpu, _) = measured(lambda: list(json_text.lines(made, 100))[-1][0])
    assert last == 20 * 50_001
    assert cpu < 0.2


class Nowhere:
    def write(self, data: bytes) -> None:
        """Take them and keep nothing."""


HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n'
AROUND = {
    "a preamble": (b"", b"p"),
    "a preamble of lines": (b"", b"--y\r\n"),
    "a header": (HEAD, b"h"),
    "headers": (HEAD, b"a: b\r\n"),
    "an epilogue": (HEAD + b"\r\nhello\r\n--x--\r\n", b"e"),
    "a boundary": (b"--x", b" "),
}


@pytest.mark.parametrize(("before", "mark"), AROUND.values(), ids=list(AROUND))
def test_a_form_is_held_for_64_kib_around_its_data_and_no_more(before: bytes, mark: bytes) -> None:
    taken = 0

    def received() -> Iterator[bytes]:
        nonlocal taken
        yield before
        for _ in range(256 * 16):
            taken += 64 * 1024
            yield (mark * 64 * 1024)[: 64 * 1024]

    def read() -> tuple[int, int]:
        with pytest.raises(Invalid) as caught:
            read_form(received(), b"x", lambda _: Nowhere())
        return caught.value.status, taken

    (status, bytes_taken), cpu, memory = measured(read)
    assert (status, bytes_taken <= 3 * 64 * 1024) == (413, True)
    assert cpu < 0.5
    assert memory < 5


@given(st.integers(1, 50), st.sampled_from([b"\r\n", b"\r", b"\n", b"--", b"a--x", b"\r\n--y", b"data"]))
@settings(max_examples=40)
def test_data_of_any_kind_and_size_passes(times: int, kind: bytes) -> None:
    data = kind * 4_000 * times
    got: list[bytes] = []
    sink = type("Sink", (), {"write": lambda _, piece: got.append(piece)})()
    body = HEAD + b"\r\n" + data + b"\r\n--x--\r\n"
    pieces = [body[at : at + 64 * 1024] for at in range(0, len(body), 64 * 1024)]
    assert read_form(pieces, b"x", lambda _: sink) == {}
    assert b"".join(got) == data
