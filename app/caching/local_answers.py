"""Answers that this process remembers by itself for some minutes, in front of where they are kept."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from cachetools import TLRUCache

from app.caching.domain.answer import AnswerCache, CachedAnswer
from app.platform.ports import Clock

_MOST = 10_000  # answers remembered, however small
_TRUSTED = 1.0  # seconds for which what is remembered is given without asking whether something was replaced
_OVERHEAD = 1_000  # bytes of memory that an answer takes beside its text


@dataclass(frozen=True, slots=True)
class _Remembered:
    answer: CachedAnswer
    until: float  # on the monotonic clock


class LocalAnswers:
    """Implements the AnswerCache port. The least recently used are forgotten first.

    Once a second the stamp of what was replaced is read: when another process replaced an answer, or nobody can tell
    whether one did, all is forgotten here.
    """

    def __init__(self, inner: AnswerCache, clock: Clock, *, seconds: float, most_bytes: int) -> None:
        self._inner = inner
        self._clock = clock
        self._seconds = seconds
        self._least = most_bytes / _MOST
        self._lock = threading.Lock()
        self._stamp: str | None = None
        self._trusted_until = 0.0
        self._forgotten = 0  # times: what was read before the last one is not remembered
        self._known: TLRUCache[str, _Remembered] = TLRUCache(
            most_bytes, ttu=lambda _key, value, _now: value.until, timer=clock.monotonic, getsizeof=self._size
        )

    def look(self, keys: Collection[str]) -> Mapping[str, CachedAnswer]:
        """The answers that are known here or kept, by key."""
        self._check()
        with self._lock:
            forgotten = self._forgotten
            found = {key: known.answer for key in keys if (known := self._known.get(key)) is not None}
        missing = [key for key in keys if key not in found]
        if missing:
            kept = self._inner.look(missing)
            for key, answer in kept.items():
                left = self._seconds if answer.until is None else answer.until - self._clock.now()
                self._remember(key, answer, min(left, self._seconds), forgotten)
            found.update(kept)
        return found

    def keep(self, key: str, answer: CachedAnswer, seconds: float) -> None:
        """Keep an answer, and remember it."""
        self._check()
        answer = replace(answer, until=self._clock.now() + seconds)
        self._remember(key, answer, min(seconds, self._seconds), self._forgotten)
        self._inner.keep(key, answer, seconds)

    def stamp(self) -> str | None:
        """That of what is behind."""
        return self._inner.stamp()

    def close(self) -> None:
        """Forget everything, and close what is behind."""
        with self._lock:
            self._known.clear()
        self._inner.close()

    def _check(self) -> None:
        now = self._clock.monotonic()
        with self._lock:
            if now < self._trusted_until:
                return
            self._trusted_until = now + _TRUSTED  # others need not ask meanwhile
        stamp = self._inner.stamp()
        with self._lock:
            if stamp is None or stamp != self._stamp:
                self._known.clear()
                self._forgotten += 1
            self._stamp = stamp

    def _remember(self, key: str, answer: CachedAnswer, seconds: float, forgotten: int) -> None:
        """`forgotten`: as it stood before the answer was read."""
        remembered = _Remembered(answer, self._clock.monotonic() + seconds)
        with self._lock:
            if forgotten != self._forgotten:
                return
            try:
                self._known[key] = remembered
            except ValueError:  # larger than all of them may be together
                self._known.pop(key, None)

    def _size(self, remembered: _Remembered) -> float:
        """What it counts for: its text in memory, at most four bytes a character."""
        result = remembered.answer.result
        width = 1 if result.isascii() else 4
        return max(self._least, len(result) * width + _OVERHEAD)
