"""gzip of several members, cut anywhere; what follows the last; what all of it costs."""

import gzip
import time
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api import body
from app.api.body import BadGzip, Members

PIECE = 64 * 1024
EMPTY = gzip.compress(b"", mtime=0)


def unpacked(packed: bytes, sizes: list[int]) -> tuple[bytes, bool]:
    members, found = Members(), b""
    for size in [*sizes, len(packed)]:
        piece, packed = packed[:size], packed[size:]
        outs = list(members.unpack(piece, 100))
        assert all(1 <= len(out) <= 100 for out in outs)
        found += b"".join(outs)
    return found, members.whole


@given(st.lists(st.binary(max_size=700), min_size=1, max_size=5), st.lists(st.integers(0, 90)))
def test_all_members_are_read_however_the_bytes_were_cut(texts: list[bytes], sizes: list[int]) -> None:
    packed = b"".join(gzip.compress(text) for text in texts)
    assert unpacked(packed, sizes) == (b"".join(texts), True)


@given(st.binary(max_size=200), st.binary(max_size=200), st.lists(st.integers(0, 90)), st.data())
def test_what_is_cut_off_is_never_whole_except_between_members(
    first: bytes, second: bytes, sizes: list[int], data: st.DataObject
) -> None:
    heads = [gzip.compress(first), gzip.compress(second)]
    packed = b"".join(heads)
    end = data.draw(st.integers(0, len(packed) - 1))
    assert unpacked(packed[:end], sizes)[1] == (end == len(heads[0]))


@pytest.mark.parametrize("garbage", [b"\0", b"x"])
def test_a_byte_behind_a_member_is_never_whole(garbage: bytes) -> None:
    assert unpacked(gzip.compress(b"hello") + garbage, []) == (b"hello", False)


@pytest.mark.parametrize("garbage", [b"\0\0", b"{}\n", EMPTY[:1] + b"x" * 9, zlib.compress(b"x")])
def test_what_is_no_member_is_refused_behind_one(garbage: bytes) -> None:
    with pytest.raises(BadGzip, match="the data after its end"):
        unpacked(gzip.compress(b"hello") + garbage, [])


@pytest.mark.parametrize("garbage", [b"x" * PIECE, b"\0" * PIECE])
def test_what_follows_the_end_costs_nothing(garbage: bytes) -> None:
    members, began = Members(), time.process_time()
    with pytest.raises(BadGzip):
        [list(members.unpack(piece, PIECE)) for piece in [gzip.compress(b"hello"), *[garbage] * 500]]
    assert time.process_time() - began < 0.1


def test_many_tiny_members_cost_in_proportion_and_have_a_most() -> None:
    members, began = Members(), time.process_time()
    tiny = gzip.compress(b"x", mtime=0)
    pieces = tiny * (PIECE // len(tiny))
    with pytest.raises(BadGzip, match="more than 100000 members"):
        [list(members.unpack(pieces, PIECE)) for _ in range(10_000)]
    assert time.process_time() - began < 10 * body.MOST_MEMBERS / 100_000
