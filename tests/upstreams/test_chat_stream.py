"""Completions in pieces: whatever way an answer is cut, what is put together is the whole."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.platform.domain.event_stream import COMMENT, EventReader, event, named_event
from app.upstreams.domain.chat_stream import Assembly, Piece, chunks_of, for_client

words = st.text(max_size=12)
tool_calls = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.text(min_size=1, max_size=8),
            "type": st.just("function"),
            "function": st.fixed_dictionaries({"name": words, "arguments": words}),
        }
    ),
    min_size=1,
    max_size=3,
)
messages = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": words},
    optional={"reasoning_content": words, "refusal": st.none(), "tool_calls": tool_calls},
)
logprobs = st.none() | st.fixed_dictionaries(
    {"content": st.lists(st.fixed_dictionaries({"token": words, "logprob": st.floats(-9, 0)}), max_size=3)}
)


def _choice(index: int) -> Any:
    return st.fixed_dictionaries(
        {
            "index": st.just(index),
            "message": messages,
            "logprobs": logprobs,
            "finish_reason": st.sampled_from(["stop", "length", "tool_calls"]),
        }
    )


completions = st.fixed_dictionaries(
    {
        "id": st.text(min_size=1, max_size=8),
        "object": st.just("chat.completion"),
        "created": st.integers(0, 2**31),
        "model": st.text(min_size=1, max_size=8),
        "choices": st.integers(1, 3).flatmap(lambda n: st.tuples(*map(_choice, range(n))).map(list)),
    },
    optional={
        "usage": st.just({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}),
        "system_fingerprint": words,
        "simulated": st.just(True),
    },
)


def assembled(chunks: Any) -> Any:
    assembly = Assembly()
    for chunk in chunks:
        assembly.add(chunk)
    return assembly.completion()


@given(completions)
def test_an_answer_taken_apart_and_put_together_is_the_same(completion: dict[str, Any]) -> None:
    assert assembled(chunks_of(completion)) == completion


def split(chunk: dict[str, Any], at: int) -> list[dict[str, Any]]:
    """One chunk as two: texts of the deltas are cut at a place."""
    first, second = [], []
    for choice in chunk["choices"]:
        texts = {k: v for k, v in choice["delta"].items() if isinstance(v, str) and k != "role"}
        rest = {k: v for k, v in choice["delta"].items() if k not in texts}
        first.append({**choice, "delta": {**rest, **{k: v[:at] for k, v in texts.items()}}})
        second.append({**choice, "logprobs": None, "delta": {k: v[at:] for k, v in texts.items()}})
    return [{**chunk, "choices": first, "usage": None}, {**chunk, "choices": second}]


@given(completions, st.integers(0, 12))
def test_however_finely_the_texts_are_cut_the_answer_is_the_same(completion: dict[str, Any], at: int) -> None:
    pieces = [piece for chunk in chunks_of(completion) for piece in split(chunk, at)]
    assert assembled(pieces) == completion


def test_tool_calls_grow_by_their_index() -> None:
    def chunk(*calls: dict[str, Any]) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": {"tool_calls": list(calls)}}]}

    whole = assembled(
        [
            chunk({"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}),
            chunk({"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{"}}),
            chunk(
                {"index": 0, "function": {"arguments": "{1"}}, {"index": 1, "function": {"arguments": "}"}}
            ),
            chunk({"index": 0, "function": {"arguments": "}"}}),
        ]
    )
    assert whole["choices"][0]["message"]["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{1}"}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_an_answer_without_a_reason_to_end_is_not_finished() -> None:
    assembly = Assembly()
    assert not assembly.finished
    assembly.add({"choices": [{"index": 0, "delta": {"content": "a"}}]})
    assert not assembly.finished
    assembly.add({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    assert assembly.finished


@given(st.recursive(st.none() | st.integers() | words, lambda s: st.lists(s) | st.dictionaries(words, s)))
def test_no_chunk_whatever_it_holds_breaks_the_assembly(value: Any) -> None:
    assembly = Assembly()
    for chunk in (
        {"choices": value, "usage": value},
        {"choices": [value, {"index": value, "delta": value, "logprobs": value}]},
        {"choices": [{"index": 0, "delta": {"content": value, "tool_calls": [value, {"index": value}]}}]},
        {"choices": [{"index": 0, "delta": {"content": "a", "tool_calls": [{"index": 0}, value]}}]},
    ):
        assembly.add(chunk)
    assembly.completion()


def test_the_usage_is_shown_to_those_who_asked_for_it() -> None:
    said = {"choices": [{"index": 0, "delta": {"content": "a"}}], "usage": None}
    only = {"choices": [], "usage": {"total_tokens": 3}}
    assert for_client(only, with_usage=False) is None
    assert for_client(only, with_usage=True) == only
    assert for_client(said, with_usage=False) == {"choices": said["choices"]}
    assert for_client({"choices": []}, with_usage=True) == {"choices": [], "usage": None}


@given(
    st.lists(st.text("ab :,é", max_size=9).map(str.encode)),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.data(),
)
def test_events_are_read_the_same_wherever_the_bytes_are_cut(
    data: list[bytes], end: bytes, draw: st.DataObject
) -> None:
    sent = COMMENT + COMMENT.join(map(event, data)) + named_event("progress", b"last")
    sent = sent.replace(b"\n", end)
    reader, got, at = EventReader(), [], 0
    while at < len(sent):
        size = draw.draw(st.integers(1, 9))
        got += reader.feed(sent[at : at + size])
        at += size
    assert [one.data for one in got] == [*filter(bytes.strip, data), b"last"]
    assert got[-1].name == "progress"
    assert reader.held == 0


def test_a_keep_alive_is_no_event_to_a_client_that_ends_one_at_every_blank_line() -> None:
    sent = COMMENT + COMMENT + event(b"{}") + COMMENT + event(b"[DONE]")
    assert [block for block in sent.split(b"\n\n") if b"data:" not in block] == [b""]


@given(st.integers(0, 2**60), st.integers(0, 2**40), st.none() | st.binary())
def test_a_piece_travels_unchanged(release: int, number: int, data: bytes | None) -> None:
    assert Piece.decode(Piece(release, number, data).encode()) == Piece(release, number, data)
