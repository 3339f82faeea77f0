"""Work that goes on behind whoever gives it."""

import threading

import pytest

from app.platform.background_loop import PipelinedWriter


def test_pieces_run_one_after_the_other_and_behind_whoever_gives_them() -> None:
    behind, go, done = PipelinedWriter(), threading.Event(), list[int]()

    def first() -> None:
        assert go.wait(60)
        done.append(1)

    behind.do(first)
    assert done == []
    go.set()
    behind.do(lambda: done.append(2))
    assert done[0] == 1, "the second waited for the first"
    behind.settle()
    assert done == [1, 2]


def test_what_a_piece_raises_is_raised_once_and_keeps_the_next_from_beginning() -> None:
    behind, done = PipelinedWriter(), list[int]()

    def fail() -> None:
        raise ValueError("lost")

    behind.do(fail)
    with pytest.raises(ValueError, match="lost"):
        behind.do(lambda: done.append(1))
    behind.settle()
    assert done == []
