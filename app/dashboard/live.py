"""One reader for all viewers: each kind of page is rendered once, and only changed parts are sent."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import orjson

from app.platform.background_loop import END, BackgroundLoop
from app.platform.ports import Clock
from app.reporting.read_overview import Overview, ReadOverview

Parts = Mapping[str, str]  # HTML by the part of the page
EVERY_SECONDS = 1.0
FRESH_SECONDS = 1.5  # an overview younger than this is not read again
BEAT_SECONDS = 15.0  # between heartbeats on a stream without changes
_REMEMBERED_SECONDS = 30.0
_MOST_KINDS = 200  # kinds of viewers remembered at once


@dataclass(slots=True)
class _SharedPage:
    parts: Parts
    read_at: float  # monotonic


class Stream:
    """An iterator with a callback for when its reader is gone, even before the first event."""

    def __init__(self, events: Iterator[bytes], left: Callable[[], None]) -> None:
        self._events = events
        self._left: Callable[[], None] | None = left

    def __iter__(self) -> Iterator[bytes]:
        return self._events

    def close(self) -> None:
        """Free the place for another stream."""
        left, self._left = self._left, None
        if left is not None:
            left()


class LivePages:
    """Shares overviews. Holds no database connection between two reads, and reads nothing without viewers.

    Request threads follow, one loop looks; `_news` guards the fields.
    """

    def __init__(
        self, reader: ReadOverview, render: Callable[[Overview], Parts], clock: Clock, most: int
    ) -> None:
        """`most` streams at once; each holds a thread of the server."""
        self._reader = reader
        self._render = render
        self._clock = clock
        self._most = most
        self._followers: Counter[str | None] = Counter()
        self._shown: dict[str | None, _SharedPage] = {}
        self._news = threading.Condition()
        self._loop = BackgroundLoop(
            "dashboard", self._look, every=EVERY_SECONDS, backoff=(EVERY_SECONDS, 8 * EVERY_SECONDS)
        )
        self._closed = False

    def now(self, viewer: str | None) -> Parts:
        """The current parts, at most 1.5 s old."""
        with self._news:
            shown = self._shown.get(viewer)
        if shown is not None and self._clock.monotonic() - shown.read_at <= FRESH_SECONDS:
            return shown.parts
        return self._read(viewer)[viewer]

    def follow(self, viewer: str | None, still: Callable[[], bool]) -> Stream | None:
        """Server-sent events, first with all parts and then with changed ones; None if there are too many streams.

        Ends when `still`, called every 15 s, returns False, and when this is closed. The caller must close it.
        """
        with self._news:
            if self._closed or self._followers.total() >= self._most:
                return None
            self._followers[viewer] += 1
            self._start()
        return Stream(self._events(viewer, still), lambda: self._left(viewer))

    def close(self) -> None:
        """End all streams and the thread."""
        self.end_streams()
        self._loop.close()

    def end_streams(self) -> None:
        """End all streams, and start no more."""
        with self._news:
            self._closed = True
            self._news.notify_all()

    def _start(self) -> None:
        self._loop.start()
        self._news.notify_all()

    def _left(self, viewer: str | None) -> None:
        with self._news:
            self._followers[viewer] -= 1
            self._followers += Counter()  # drops viewers that are gone

    def _events(self, viewer: str | None, still: Callable[[], bool]) -> Iterator[bytes]:
        sent: Parts = {}
        asked = self._clock.monotonic()
        yield b"retry: 3000\n\n"
        while not self._closed:
            parts = self._next(viewer, sent)
            changed = {name: html for name, html in parts.items() if sent.get(name) != html}
            sent = parts
            yield (
                b"event: parts\ndata: " + orjson.dumps(changed) + b"\n\n" if changed else b": still here\n\n"
            )
            if self._clock.monotonic() - asked >= BEAT_SECONDS:
                asked = self._clock.monotonic()
                if not still():
                    return

    def _next(self, viewer: str | None, sent: Parts) -> Parts:
        """Wait at most 15 s for parts other than those sent."""

        def other() -> bool:
            shown = self._shown.get(viewer)
            return self._closed or (shown is not None and shown.parts is not sent)

        with self._news:
            self._news.wait_for(other, timeout=BEAT_SECONDS)
            shown = self._shown.get(viewer)
        return shown.parts if shown else {}

    def _look(self) -> object:
        with self._news:
            self._news.wait_for(lambda: self._closed or self._followers.total() > 0)
            if self._closed:
                return END
        return self._read()

    def _read(self, *also: str | None) -> dict[str | None, Parts]:
        """Read and render for all current viewers, and keep the pages of recent ones."""
        began = self._clock.monotonic()
        with self._news:
            lately = {v: s for v, s in self._shown.items() if began - s.read_at < _REMEMBERED_SECONDS}
            wanted = list(dict.fromkeys([*also, *self._followers]))
        found = self._reader.read(wanted, remember=list(lately)[-_MOST_KINDS:])
        rendered = {viewer: self._render(overview) for viewer, overview in found.items()}
        with self._news:
            known = {v: s for v, s in self._shown.items() if began - s.read_at < _REMEMBERED_SECONDS}
            self._shown = {
                **known,
                **{viewer: _SharedPage(parts, began) for viewer, parts in rendered.items()},
            }
            self._news.notify_all()
        return rendered
