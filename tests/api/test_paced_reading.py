"""How long a sender may take."""

import socket
import threading

import pytest

from app.api.http_worker import LEAST_PACE, SlowClient, SlowClientGuard


def test_waiting_is_counted_over_all_reads_of_a_request_and_begins_anew_with_the_next() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        unreader = SlowClientGuard(ours, 0.2)
        theirs.sendall(b"abc")
        assert unreader.chunk() == b"abc"
        with pytest.raises(SlowClient):
            unreader.chunk()
        theirs.sendall(b"d")
        with pytest.raises(SlowClient):  # too late: its time is over
            unreader.chunk()
        unreader.begin(0.2)
        assert unreader.chunk() == b"d"
        assert ours.gettimeout() is None


def test_who_has_sent_much_may_pause_for_longer() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        unreader = SlowClientGuard(ours, 0.05)
        theirs.sendall(b"x" * LEAST_PACE * 60)
        left = LEAST_PACE * 60
        while left:
            left -= len(unreader.chunk(left))
        timer = threading.Timer(0.3, theirs.sendall, (b"y",))
        timer.start()
        assert unreader.chunk() == b"y"
        timer.join()


def test_a_head_has_its_own_patience_and_the_rest_of_the_request_another() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        unreader = SlowClientGuard(ours, 60)
        unreader.begin(0.05)
        with pytest.raises(SlowClient):
            unreader.chunk()
        unreader.allow(60)
        theirs.sendall(b"d")
        assert unreader.chunk() == b"d"
