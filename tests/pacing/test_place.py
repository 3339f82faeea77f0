"""An entry of the place table survives whatever stands in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pacing.domain.backlog import read_place, write_place
from app.tasks.domain.attempt import Message

ANYTHING = st.text(st.characters(exclude_categories=()), max_size=30)  # lone surrogates too
NAME = ANYTHING.filter(bool)


@given(
    avoid=st.lists(NAME, max_size=4).map(tuple),
    facts=ANYTHING,
    prefix=ANYTHING,
    estimate=st.integers(0, 10**9),
    sequence=st.integers(1, 10**12),
    asked=st.integers(0, 10**6),
    due=st.floats(0, 1e10) | st.none(),
)
def test_what_is_written_is_read(
    avoid: tuple[str, ...],
    facts: str,
    prefix: str,
    estimate: int,
    sequence: int,
    asked: int,
    due: float | None,
) -> None:
    more = {} if due is None else {"due": due}
    message = Message(
        "task_1",
        sequence,
        "m",
        "c",
        "backlog.m.c",
        3,
        estimate,
        avoid,
        False,
        facts,
        prefix,
        asked=asked,
        **more,
    )
    written = write_place(message)
    assert written.isascii()
    assert written.count("|") == 6
    assert written.split("|")[5] == ("" if due is None else f"{due:.3f}")
    head = read_place("task_1", written)
    assert (head.avoid, head.facts, head.prefix) == (avoid, facts, prefix)
    assert (head.estimate, head.sequence, head.asked) == (estimate, sequence, asked)


def test_an_entry_of_an_older_version_is_read() -> None:
    head = read_place("task_1", "10|deepseek-ai/DeepSeek-V3,tier:context_length|17;ab:0-|4|beef||9")
    assert head.avoid == ("deepseek-ai/DeepSeek-V3", "tier:context_length")
    assert (head.facts, head.prefix, head.asked) == ("17;ab:0-", "beef", 9)


@pytest.mark.parametrize(
    "garbage", ["", "x", "|", "nan|||1", "-1|||1", "inf", "10|||x", "10||||||x", "\ufffd"]
)
def test_what_is_no_entry_is_refused_as_a_value(garbage: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_place("task_1", garbage)


@given(garbage=ANYTHING)
def test_nothing_else_is_ever_raised(garbage: str) -> None:
    try:
        read_place("task_1", garbage)
    except ValueError:
        pass
