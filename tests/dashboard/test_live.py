"""One reader for all who look, on streams that hold a thread and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import orjson
import pytest

from app.dashboard.live import LivePages
from app.platform.ports import SystemClock
from tests.api.world import ADMIN_KEY
from tests.dashboard.conftest import Pages
from tests.stack import NotInTime, wait_until


class Reader:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.reads: list[list[str | None]] = []

    def read(
        self, viewers: Sequence[str | None], remember: Sequence[str | None] = ()
    ) -> dict[str | None, Any]:
        self.reads.append(list(viewers))
        return {viewer: (viewer, len(self.reads)) for viewer in viewers}


def render(overview: Any) -> dict[str, str]:
    viewer, number = overview
    return {"who": str(viewer), "number": str(number)}


def make(most: int = 3) -> tuple[LivePages, Reader]:
    reader = Reader()
    return LivePages(reader, render, SystemClock(), most), reader  # type: ignore[arg-type]


@pytest.fixture
def live_and_reader() -> Iterator[tuple[LivePages, Reader]]:
    made = make()
    yield made
    made[0].close()


def parts(stream: Iterator[bytes]) -> dict[str, str]:
    """The next parts that are sent."""
    for event in islice(stream, 4):
        if event.startswith(b"event: parts"):
            return dict(orjson.loads(event.partition(b"data: ")[2]))
    raise AssertionError("the stream has ended")


def test_all_viewers_share_one_reader_and_each_kind_is_read_once(
    live_and_reader: tuple[LivePages, Reader],
) -> None:
    live, reader = live_and_reader
    others = set(threading.enumerate())  # of services that earlier tests have left
    streams = [live.follow(viewer, lambda: True) for viewer in (None, None, "alice")]
    shown = [parts(iter(stream)) for stream in streams if stream]
    assert [one["who"] for one in shown] == ["None", "None", "alice"]
    assert [thread.name for thread in threading.enumerate() if thread not in others] == ["dashboard"]
    assert all(len(viewers) == len(set(viewers)) for viewers in reader.reads)


def test_only_what_changed_is_sent_again(live_and_reader: tuple[LivePages, Reader]) -> None:
    stream = live_and_reader[0].follow("alice", lambda: True)
    assert stream
    events = iter(stream)
    assert set(parts(events)) == {"who", "number"}
    assert set(parts(events)) == {"number"}


def test_too_many_viewers_are_sent_away_until_one_leaves(live_and_reader: tuple[LivePages, Reader]) -> None:
    live, _ = live_and_reader
    streams = [live.follow(None, lambda: True) for _ in range(4)]
    assert [stream is not None for stream in streams] == [True, True, True, False]
    assert streams[0]
    streams[0].close()
    streams[0].close()
    assert live.follow(None, lambda: True) is not None
    assert live.follow(None, lambda: True) is None


def test_while_nobody_looks_nothing_is_read(live_and_reader: tuple[LivePages, Reader]) -> None:
    live, reader = live_and_reader
    stream = live.follow(None, lambda: True)
    assert stream
    parts(iter(stream))
    stream.close()
    seen = len(reader.reads)
    with pytest.raises(NotInTime):  # for longer than a beat of the reader
        wait_until(lambda: len(reader.reads) > seen + 1, within=2.5)


def test_a_look_is_shared_for_a_moment(live_and_reader: tuple[LivePages, Reader]) -> None:
    live, reader = live_and_reader
    assert live.now("alice") is live.now("alice")
    assert live.now("bob")["who"] == "bob"
    assert reader.reads == [["alice"], ["bob"]]


def test_when_the_service_ends_the_streams_end(live_and_reader: tuple[LivePages, Reader]) -> None:
    live, _ = live_and_reader
    stream = live.follow(None, lambda: True)
    assert stream
    events = iter(stream)
    parts(events)
    live.end_streams()
    assert not [event for event in events if b"parts" in event]
    assert live.follow(None, lambda: True) is None


def test_a_stream_shows_what_changes_and_holds_no_connection(pages: Pages) -> None:
    alice = pages.client()
    with closing(pages.browser(alice).get("/live")) as answer:
        stream = iter(answer.response)
        assert "No tasks are waiting" in parts(stream)["waiting"]
        alice.submit_batch(3, batch_size=1)
        pages.parts.clock.ahead += 30
        # The reader may have looked before that, and sends what it saw first.
        wait_until(lambda: ">3<" in parts(stream).get("figures", ""))
        assert pages.database._readers.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_an_administrators_stream_shows_all_clients(pages: Pages) -> None:
    task_id = pages.client().submit()
    with closing(pages.browser(key=ADMIN_KEY).get("/live")) as answer:
        assert task_id in parts(iter(answer.response))["latest"]
