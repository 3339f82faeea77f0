"""Streams as providers send them: what is stored, and what reaches the client."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.upstreams.domain.reply import TransportError, TransportErrorKind
from app.upstreams.read_answer import AnswerReading
from app.upstreams.upstream_call import IncompleteCall
from tests.attempts import PROFILE

Chunk = dict[str, Any]


class PlayedAnswer:
    """An answer of a 200, received in these pieces; an exception among them breaks it off."""

    def __init__(self, *pieces: bytes | None, kind: str = "text/event-stream", status: int = 200) -> None:
        self.status = status
        self.headers = {"content-type": kind}
        self.charset = ""
        self._pieces = pieces

    def bounded(self, _most: int) -> Iterator[bytes]:
        for piece in self._pieces:
            if piece is None:
                raise self.failed(TransportError(TransportErrorKind.TIMED_OUT, "silence"))
            yield piece

    def hurry(self, _seconds: float) -> None: ...

    def failed(self, fault: TransportError) -> IncompleteCall:
        return IncompleteCall(fault)


class Read:
    """What came of an answer: `body`, or `fault`; and the chunks that were passed on."""

    def __init__(self, *pieces: bytes | None, **more: Any) -> None:
        self.passed: list[Chunk] = []
        self.body, self.fault = b"", None
        reading = AnswerReading(2**20, PROFILE.shape, lambda data: self.passed.append(orjson.loads(data)))
        try:
            self.body = reading.read(PlayedAnswer(*pieces, **more))  # type: ignore[arg-type]
        except IncompleteCall as failed:
            self.fault = failed.fault.trouble
        self.shown = reading.shown

    @property
    def whole(self) -> Any:
        assert self.fault is None
        return orjson.loads(self.body)

    @property
    def message(self) -> Any:
        return self.whole["choices"][0]["message"]

    @property
    def text(self) -> str:
        """As a client puts the chunks together that reached it."""
        deltas = [one["delta"] for chunk in self.passed for one in chunk["choices"]]
        return "".join(delta.get("content") or "" for delta in deltas)


def chunk(delta: Any, reason: str | None = None, **more: Any) -> Chunk:
    choice = {"index": 0, "delta": delta, "finish_reason": reason, **more}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def sent(*chunks: Chunk, end: str = "\n\n", done: str = "data: [DONE]\n\n") -> bytes:
    return ("".join(f"data: {json.dumps(one)}{end}" for one in chunks) + done).encode()


HI, STOP = chunk({"role": "assistant", "content": "hi"}), chunk({"content": ""}, "stop")
PLAIN = sent(HI, STOP)
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
LINES = json.dumps(HI, indent=1).replace("\n", "\ndata: ")

THE_SAME = {
    "as it should be": PLAIN,
    "empty data": b"data: \n\n" + sent(HI, done="") + b"data:\n\n" + sent(STOP),
    "pings": PING + sent(HI, done="") + PING + sent(STOP),
    "pings without a name": b'data: {"type": "ping"}\n\n' + PLAIN,
    "pings of plain words": b"data: ping\n\n" + sent(HI, done="") + b"data: keep-alive\n\n" + sent(STOP),
    "named pings without data": b"event: heartbeat\n\n" + PLAIN,
    "comments": b": OPENROUTER PROCESSING\n\n" + sent(HI, done="") + b":\n: keep-alive\n\n" + sent(STOP),
    "a comment in an event": b'data: {"a": 1,\n: keep-alive\ndata: "choices": []}\n\n' + PLAIN,
    "other fields": b"retry: 3000\nid: 1\nevent: message\n" + PLAIN.replace(b"data: [", b"id: 2\ndata: ["),
    "one newline": sent(HI, STOP, end="\n"),
    "one newline and done at once": sent(HI, STOP, end="\n", done="data: [DONE]\n"),
    "one CRLF": sent(HI, STOP, end="\r\n", done="data: [DONE]\r\n"),
    "three newlines": sent(HI, STOP, end="\n\n\n"),
    "no space after the colon": PLAIN.replace(b"data: ", b"data:"),
    "more spaces": PLAIN.replace(b"data: ", b"data:   "),
    "CRLF": PLAIN.replace(b"\n", b"\r\n"),
    "CR": PLAIN.replace(b"\n", b"\r"),
    "mixed line ends": PLAIN.replace(b"\n\n", b"\r\n\n", 1),
    "a BOM": b"\xef\xbb\xbf" + PLAIN,
    "blank lines first": b"\n\r\n\n" + PLAIN,
    "done with blanks": sent(HI, STOP, done="data: [DONE] \n\n"),
    "done with quotes": sent(HI, STOP, done='data: "[DONE]"\n\n'),
    "done in small letters": sent(HI, STOP, done="data: [done]\n\n"),
    "no done": sent(HI, STOP, done=""),
    "no done and no blank line": sent(HI, STOP, done="").rstrip(),
    "no finish reason": sent(HI),
    "a finish reason that says nothing": sent(chunk({"content": "hi"}, ""), chunk({}, "null")),
    "split over data lines": f"data: {LINES}\n\n".encode() + sent(STOP),
    "a field name twice": PLAIN.replace(b"data: {", b"data: data: {"),
    "after done": PLAIN + sent(chunk({"content": " more"})),
    "an error after its finish reason": sent(HI, STOP, {"error": {"message": "late"}}),
    "an error event after its finish reason": sent(HI, STOP, done="event: error\ndata: late\n\n"),
    "an error of zeros beside it": sent({**HI, "error": {"code": 0, "message": ""}}, STOP),
    "an error after its end": PLAIN + b'data: {"error": {"message": "late"}}\n\n',
    "the message again at the end": sent(HI, chunk({}, "stop", message={"role": "assistant", "content": "hi"})),
    "a message instead of deltas": sent(chunk({}, "stop", message={"role": "assistant", "content": "hi"})),
    "texts": sent(chunk({}, text="hi"), chunk({}, "stop", text="")).replace(b'"delta": {}, ', b""),
    "content as parts": sent(chunk({"content": [{"type": "text", "text": "hi"}]}), STOP),
    "parts and text": sent(chunk({"content": [{"type": "text", "text": "h"}]}), chunk({"content": "i"}), STOP),
    "a filter's chunk first": sent({"id": "", "model": "", "choices": [], "prompt_filter_results": []}, HI, STOP),
    "roles again": sent(HI, chunk({"role": "assistant", "content": ""}), STOP),
    "no index": sent(*({**one, "choices": [{**one["choices"][0], "index": None}]} for one in (HI, STOP))),
}  # fmt: skip


@pytest.mark.parametrize("stream", THE_SAME.values(), ids=THE_SAME)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_an_answer_is_whole_and_nothing_foreign_reaches_the_client(stream: bytes, size: int) -> None:
    read = Read(*(stream[at : at + size] for at in range(0, len(stream), size)))
    assert (read.whole["id"], read.whole["object"], read.whole["model"]) == ("c1", "chat.completion", "m")
    assert set(read.whole) <= {
        "id",
        "object",
        "created",
        "model",
        "choices",
        "prompt_filter_results",
        "a",
        "error",
    }
    assert [one["finish_reason"] for one in read.whole["choices"]] == ["stop"]
    assert read.message == {"role": "assistant", "content": "hi"}
    assert b"\n" not in read.body
    assert read.text == "hi"
    assert all(one["choices"] and "error" not in one for one in read.passed)
    assert read.passed[-1]["choices"][0]["finish_reason"] == "stop"


@given(st.sampled_from(list(THE_SAME.values())), st.data())
def test_however_a_stream_is_cut_the_stored_answer_is_the_same(stream: bytes, draw: st.DataObject) -> None:
    cuts = sorted({0, len(stream), *draw.draw(st.lists(st.integers(0, len(stream)), max_size=20))})
    read = Read(*(stream[a:b] for a, b in itertools.pairwise(cuts)))
    assert read.body == Read(stream).body


CUT_OFF = {
    "before the end": sent(HI, done=""),
    "within an event": sent(HI, done="") + b'data: {"id": "c1", "choices": [{"delta": {"con',
    "nothing but done": b"data: [DONE]\n\n",
    "a role and done": sent(chunk({"role": "assistant", "content": ""})),
    "a chunk that is no JSON": sent(HI, done="") + b'data: {"id": "c1", cho\n\n' + sent(STOP),
    "pings alone": PING * 5,
}


@pytest.mark.parametrize("stream", CUT_OFF.values(), ids=CUT_OFF)
def test_a_stream_without_its_end_is_no_answer(stream: bytes) -> None:
    read = Read(stream)
    assert read.fault is TransportErrorKind.CUT
    assert read.shown == (read.text == "hi")


def test_an_answer_that_is_complete_is_kept_although_its_connection_is_not() -> None:
    assert Read(sent(HI, STOP, done=""), None).message["content"] == "hi"
    assert Read(sent(HI, done=""), None).fault is TransportErrorKind.TIMED_OUT


def test_what_shows_nothing_is_held_back_and_can_be_asked_for_again() -> None:
    read = Read(sent(chunk({"role": "assistant", "content": ""}), chunk({"content": " \n"}), STOP))
    assert (read.passed, read.shown) == ([], False)
    assert read.message["content"] == " \n"
    read = Read(sent(chunk({"role": "assistant", "content": ""}), chunk({"content": "a"}), done=""), None)
    assert [one["choices"][0]["delta"] for one in read.passed] == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
    ]


ERRORS = [
    b'data: {"error": {"message": "busy"}}\n\n',
    b'event: error\ndata: {"message": "busy", "code": 503}\n\n',
    b'data: [{"error": {"code": 503, "message": "busy"}}]\n\n',
    b"event: error\ndata: busy\n\n",
]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("before", [b"", sent(HI, done="")])
def test_an_error_within_a_stream_is_its_answer(error: bytes, before: bytes) -> None:
    read = Read(before + error + sent(STOP))
    assert b"busy" in read.body
    assert b"choices" not in read.body
    assert len(read.passed) == bool(before)


BEATS = [
    b'data: {"type": "status", "message": "queued"}\n\n',
    b"data: processing\n\n",
    b'data: {"code": 0, "msg": "ok"}\n\n',
]


@pytest.mark.parametrize("beat", BEATS)
def test_words_beside_the_protocol_are_an_error_only_where_no_answer_comes(beat: bytes) -> None:
    assert Read(beat + sent(HI, done="") + beat + sent(STOP)).text == "hi"
    busy = b'data: {"code": "ServiceBusy", "message": "busy", "request_id": "r"}\n\n'
    assert b"busy" in Read(busy).body
    assert b"busy" in Read(sent(HI, done="") + busy).body
    assert b"busy" in Read(b"data: busy, try again\n\n").body


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "text/event-stream", ""])
def test_what_an_answer_is_does_not_depend_on_its_content_type(kind: str) -> None:
    whole = orjson.dumps({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]})
    for blank in (b"", b"\n\n", b"\xef\xbb\xbf"):
        assert Read(PLAIN, kind=kind).message["content"] == "hi"
        assert Read(blank + whole, kind=kind).body.strip().removeprefix(b"\xef\xbb\xbf") == whole
    assert Read(b": keep-alive\n\n" + whole, kind=kind).message["content"] == "hi"
    lines = b"\n".join(orjson.dumps(one) for one in (HI, STOP))
    assert Read(lines, kind=kind).message["content"] == "hi"


def test_a_refusal_is_read_as_it_comes() -> None:
    assert Read(b'{"error": "no"}', status=400).body == b'{"error": "no"}'
    assert Read(b'data: {"error": {"message": "no"}}\n\n', status=400).body == b'{"error": {"message": "no"}}'
    assert Read(b"<html>no</html>", status=502).body == b"<html>no</html>"


def test_usage_is_found_wherever_it_stands_and_reaches_the_client_where_it_belongs() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    for stream in (
        sent(HI, chunk({}, "stop", usage=usage)),
        sent(HI, {**chunk({}, "stop"), "x_groq": {"usage": usage}}),
        sent(HI, {**STOP, "usage": usage}),
        sent(HI, STOP, {"id": "c1", "choices": [], "usage": usage}),
        sent(HI, STOP, {"id": "c1", "usage": usage}),
        sent(HI, {"id": "c1", "choices": None, "usage": usage}, done=""),
        sent({**HI, "usage": {"prompt_tokens": 3, "completion_tokens": 1}}, {**STOP, "usage": usage}),
    ):
        read = Read(stream)
        assert read.whole["usage"] == usage
        assert "usage" not in read.whole["choices"][0]
        assert [one.get("usage") for one in read.passed].count(usage) == 1
        assert all("usage" not in choice for one in read.passed for choice in one["choices"])


@pytest.mark.parametrize("texts", [("one ", "two"), ("one ", "one two"), ("one ", "one two", "one two")])
def test_messages_may_stand_for_deltas(texts: tuple[str, ...]) -> None:
    said = [{"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]} for text in texts]
    read = Read(sent(*said, STOP))
    assert (read.message["content"], read.text) == ("one two", "one two")


def test_zeros_at_the_end_take_no_usage_back() -> None:
    known, none = ({"prompt_tokens": count, "completion_tokens": count} for count in (3, 0))
    read = Read(sent(HI, {**STOP, "usage": known}, {**STOP, "choices": [], "usage": none}))
    assert read.whole["usage"] == known


def test_a_tool_call_outside_a_list_is_read() -> None:
    call = {"id": "a", "function": {"name": "f", "arguments": "{}"}}
    read = Read(sent(chunk({"tool_calls": {"index": 0, **call}}), chunk({}, "tool_calls")))
    assert read.message["tool_calls"] == [{**call, "type": "function"}]


def test_an_error_after_a_broken_off_answer_is_its_answer() -> None:
    read = Read(sent(HI, chunk({}, "error"), {"error": {"message": "Overloaded"}}))
    assert read.whole == {"error": {"message": "Overloaded"}}


def test_reasoning_is_kept_apart_from_the_answer() -> None:
    parts = {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "so"}]}]}
    for name, first, second in (
        ("reasoning_content", {"reasoning_content": "s"}, {"reasoning_content": "o"}),
        ("reasoning", {"reasoning": "s", "content": ""}, {"reasoning": "o", "content": None}),
        ("reasoning_content", parts, {"content": ""}),
    ):
        read = Read(sent(chunk(first), chunk(second), HI, STOP))
        assert (read.message[name], read.message["content"]) == ("so", "hi")
    details = [{"type": "reasoning.text", "format": "f", "index": 0, "text": text} for text in "so"]
    read = Read(sent(*(chunk({"reasoning_details": [one]}) for one in details), HI, STOP))
    assert read.message["reasoning_details"] == [
        {"type": "reasoning.text", "format": "f", "index": 0, "text": "so"}
    ]


def test_several_choices_are_kept_apart() -> None:
    def part(index: int | None, text: str, reason: str | None = None) -> Chunk:
        return {"index": index, "delta": {"content": text}, "finish_reason": reason}

    chunks = [
        {"choices": [part(1, "b"), part(0, "a")]},
        {"choices": [part(None, "A", "stop"), part(None, "B", "length")]},
    ]
    choices = Read(sent(*chunks)).whole["choices"]
    assert [one["message"]["content"] for one in choices] == ["aA", "bB"]
    assert [one["finish_reason"] for one in choices] == ["stop", "length"]


def tool(index: int | None, own: str | None, name: str | None, arguments: Any) -> Chunk:
    given = {"index": index, "id": own, "type": "function" if own else None}
    known = {key: value for key, value in given.items() if value is not None}
    return {**known, "function": {"name": name, "arguments": arguments}}


ONE, TWO = ("c1", "f", '{"x":1}'), ("c2", "g", '{"y":2}')
F1, G2 = ("f", '{"x":1}'), ("g", '{"y":2}')
TOOLS = {
    "in order": ([tool(0, "c1", "f", '{"x":'), tool(0, None, None, "1}"), tool(1, *TWO)], [ONE, TWO]),
    "the same index": ([tool(0, *ONE), tool(0, *TWO)], [ONE, TWO]),
    "the same index, in parts": (
        [tool(0, "c1", "f", ""), tool(0, None, None, F1[1]), tool(0, "c2", "g", ""), tool(0, None, None, G2[1])],
        [ONE, TWO],
    ),
    "no index": ([tool(None, "c1", "f", '{"x":'), tool(None, None, None, "1}")], [ONE]),
    "no index, two calls": (
        [tool(None, "c1", "f", '{"x":'), tool(None, None, None, "1}"), tool(None, *TWO)],
        [ONE, TWO],
    ),
    "no index, ids again": (
        [
            *(tool(None, "c1", "f", '{"x":'), tool(None, "c2", "g", '{"y":')),
            *(tool(None, "c1", None, "1}"), tool(None, "c2", None, "2}")),
        ],
        [ONE, TWO],
    ),
    "the name again": ([tool(0, "c1", "f", '{"x":'), tool(0, None, "f", "1}")], [ONE]),
    "id and name again": ([tool(0, "c1", "f", '{"x":'), tool(0, "c1", "f", "1}")], [ONE]),
    "the name in parts": ([tool(0, "c1", "get_", ""), tool(0, None, "it", '{"x":1}')], [("c1", "get_it", '{"x":1}')]),
    "indexes from one": ([tool(1, *ONE), tool(2, *TWO)], [ONE, TWO]),
    "the second first": ([tool(1, *TWO), tool(0, *ONE)], [ONE, TWO]),
    "no ids, same index": ([tool(0, None, *F1), tool(0, None, *G2)], [("call_0_0", *F1), ("call_0_1", *G2)]),
    "nothing but names": ([tool(None, None, *F1), tool(None, None, *F1)], [("call_0_0", *F1), ("call_0_1", *F1)]),
    "empty ids": ([tool(0, "", "f", '{"x":'), tool(0, "", "", "1}")], [("call_0_0", *F1)]),
    "the id later": ([tool(0, None, "f", '{"x":'), tool(0, "c1", None, "1}")], [("call_0_0", *F1)]),
    "an object as arguments": ([tool(0, "c1", "f", {"x": 1})], [ONE]),
    "a name after whole arguments": ([tool(0, *ONE), tool(0, None, "f", "")], [ONE]),
}  # fmt: skip


@pytest.mark.parametrize(("deltas", "expected"), TOOLS.values(), ids=TOOLS)
def test_tool_calls_are_put_together_as_a_careful_client_would(
    deltas: list[Chunk], expected: list[Any]
) -> None:
    read = Read(sent(*(chunk({"tool_calls": [delta]}) for delta in deltas), chunk({}, "tool_calls")))
    stored = [
        (one["id"], one["function"]["name"], one["function"]["arguments"])
        for one in read.message["tool_calls"]
    ]
    assert stored == expected
    # A client that goes by the index, as OpenAI's clients do, comes to the same.
    seen: dict[int, dict[str, str]] = {}
    for passed in read.passed:
        for one in passed["choices"][0]["delta"].get("tool_calls") or ():
            known = seen.setdefault(one["index"], {"id": "", "name": "", "arguments": ""})
            known["id"] += one.get("id") or ""
            for name in ("name", "arguments"):
                known[name] += one["function"].get(name) or ""
    assert sorted(tuple(one.values()) for one in seen.values()) == sorted(expected)
