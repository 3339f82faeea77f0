"""Why tasks wait: told by the leader through Redis, read by the API."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import orjson

from app.adapters.redis_scripts import Scripts
from app.domain.errors import RedisUnreachable
from app.domain.task import Hold
from app.domain.why import Line, held_in_words, position_in, starts_in
from app.services.ports import Clock, Explanation, Queued

_KEY = "penstock:why"
_LIFE = 10  # seconds for which it stands when no leader tells anything more
_READ_EVERY = 1.0  # seconds


class WhyBoard:
    """Where the leader writes."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def tell(self, said: Mapping[str, Any]) -> None:
        """Replace what was told before. Raises RedisUnreachable."""
        self._scripts.command("SET", _KEY, orjson.dumps(said), "EX", _LIFE)


class ToldReasons:
    """Implements the Explain port. Reads once a second, however many ask."""

    def __init__(self, scripts: Scripts, clock: Clock) -> None:
        self._scripts = scripts
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at = -1e9
        self._said: Mapping[str, Any] = {}

    def explain(self, task: Queued) -> Explanation:
        """What the leader said last; what is not known stays None."""
        now = self._clock.now()
        held = held_in_words(task.hold, task.available_at, now)
        if held is not None:
            start = task.available_at if task.hold == Hold.UNTIL else None
            return Explanation(estimated_start_at=start, waiting_for=held)
        said = self.said()
        model = said.get("models", {}).get(task.model)
        told = said.get("lines", {}).get(f"{task.queue}|{task.step}")
        words = model["words"] if model else None
        if told is None:
            return Explanation(waiting_for=words)
        line = Line(told["head"], told["length"], told["rate"])
        position = position_in(line, task.sequence, unfed_possible=True)
        opens_in = model["opens_in"] if model and model["opens_in"] is not None else float("inf")
        seconds = starts_in(position, line.rate, opens_in)
        return Explanation(position, None if seconds is None else now + seconds, words)

    def said(self) -> Mapping[str, Any]:
        """All of it; empty when nobody tells anything or Redis does not answer."""
        with self._lock:
            if self._clock.monotonic() - self._read_at >= _READ_EVERY:
                self._read_at = self._clock.monotonic()
                self._said = self._read()
            return self._said

    def _read(self) -> Mapping[str, Any]:
        try:
            found = self._scripts.command("GET", _KEY)
        except RedisUnreachable:
            return {}
        return dict(orjson.loads(found)) if found else {}
