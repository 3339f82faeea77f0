"""A process's own copy of cached answers, for some minutes, in front of the shared store."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from cachetools import TLRUCache

from app.caching.domain.caching import AnswerCache, CachedAnswer
from app.platform.ports import Clock

_MAX_ANSWERS = 10_000  # however small
_STAMP_EVERY = 1.0  # seconds between checks that no answer was replaced
_USES_EVERY = 10.0  # seconds between records of uses in the store
_OVERHEAD = 1_000  # bytes of memory per answer, besides its text


@dataclass(frozen=True, slots=True)
class _Remembered:
    answer: CachedAnswer
    until: float  # on the monotonic clock


class LocalAnswers:
    """Implements the AnswerCache port. The least recently used answers are evicted first.

    Once a second, the stamp of the last replacement is read: when another process replaced an answer, or the stamp
    cannot be read, everything here is dropped. All request threads share it; `_lock` guards the fields, and is not held
    while the store is asked.
    """

    def __init__(self, inner: AnswerCache, clock: Clock, *, seconds: float, most_bytes: int) -> None:
        self._inner = inner
        self._clock = clock
        self._seconds = seconds
        self._min_size = most_bytes / _MAX_ANSWERS
        self._lock = threading.Lock()
        self._stamp: str | None = None
        self._trusted_until = 0.0
        self._uses: Counter[str] = (
            Counter()
        )  # of answers cached here, since they were last recorded in the store
        self._uses_due = 0.0
        self._drops = 0  # how often all was dropped: answers read before the last drop are not cached
        self._known: TLRUCache[str, _Remembered] = TLRUCache(
            most_bytes, ttu=lambda _key, value, _now: value.until, timer=clock.monotonic, getsizeof=self._size
        )

    def look(self, keys: Collection[str], *, stale: bool = False) -> Mapping[str, CachedAnswer]:
        """The answers cached here or in the store, by key; stale ones are only in the store."""
        if stale:
            return self._inner.look(keys, stale=True)
        self._check()
        with self._lock:
            drops = self._drops
            found = {key: known.answer for key in keys if (known := self._known.get(key)) is not None}
            self._uses.update(found.keys())
        missing = [key for key in keys if key not in found]
        if missing:
            kept = self._inner.look(missing)
            for key, answer in kept.items():
                left = self._seconds if answer.until is None else answer.until - self._clock.now()
                self._remember(key, answer, min(left, self._seconds), drops)
            found.update(kept)
        return found

    def keep(self, key: str, answer: CachedAnswer, seconds: float) -> None:
        """Store an answer, and cache it here."""
        self._check()
        answer = replace(answer, until=self._clock.now() + seconds)
        self._remember(key, answer, min(seconds, self._seconds), self._drops)
        self._inner.keep(key, answer, seconds)

    def stamp(self) -> str | None:
        """The stamp of the store."""
        return self._inner.stamp()

    def count_uses(self, uses: Mapping[str, int]) -> None:
        """Record uses in the store."""
        self._inner.count_uses(uses)

    def count(self) -> int | None:
        """How many answers the store holds."""
        return self._inner.count()

    def clear(self, scope: str | None) -> int | None:
        """Clear the store, and drop everything here."""
        removed = self._inner.clear(scope)
        with self._lock:
            self._known.clear()
            self._drops += 1
        return removed

    def close(self) -> None:
        """Drop everything, and close the store."""
        with self._lock:
            self._known.clear()
        self._inner.close()

    def _check(self) -> None:
        now = self._clock.monotonic()
        with self._lock:
            if now < self._trusted_until:
                return
            self._trusted_until = now + _STAMP_EVERY  # other threads need not check meanwhile
            uses = self._take_uses(now)
        if uses:
            self._inner.count_uses(uses)
        stamp = self._inner.stamp()
        with self._lock:
            if stamp is None or stamp != self._stamp:
                self._known.clear()
                self._drops += 1
            self._stamp = stamp

    def _take_uses(self, now: float) -> Mapping[str, int]:
        """The uses to be recorded now, every few seconds. Under the lock."""
        if now < self._uses_due:
            return {}
        self._uses_due = now + _USES_EVERY
        uses, self._uses = self._uses, Counter()
        return uses

    def _remember(self, key: str, answer: CachedAnswer, seconds: float, drops: int) -> None:
        """`drops`: its value before the answer was read."""
        remembered = _Remembered(answer, self._clock.monotonic() + seconds)
        with self._lock:
            if drops != self._drops:
                return
            try:
                self._known[key] = remembered
            except ValueError:  # larger than the whole cache
                self._known.pop(key, None)

    def _size(self, remembered: _Remembered) -> float:
        """Its size in memory: at most four bytes per character."""
        result = remembered.answer.result
        width = 1 if result.isascii() else 4
        return max(self._min_size, len(result) * width + _OVERHEAD)
