"""Why tasks wait: told by the leader through Redis, read by the API."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Protocol

import orjson

from app.pacing.domain.backlog import QueuePosition
from app.pacing.domain.why import NO_LEADER, NO_REDIS, held_in_words, starts_in
from app.pacing.ports import Explanation, Queued, QueueForecast
from app.platform.domain.errors import RedisUnreachable
from app.platform.ports import Clock
from app.platform.redis_scripts import Scripts
from app.tasks.domain.pauses import Pauses
from app.tasks.domain.task import Hold

_KEY = "penstock:why"
_LIFE = 10  # seconds for which it stands when no leader tells anything more
_READ_EVERY = 1.0  # seconds


class WaitReasonWriter:
    """Where the leader writes."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def tell(self, said: Mapping[str, Any]) -> None:
        """Replace what was told before. Raises RedisUnreachable."""
        self._scripts.command("SET", _KEY, orjson.dumps(said), "EX", _LIFE)


class QueuePositions(Protocol):
    """Where tasks stand in their lines."""

    def of(self, queue: str, step: int) -> QueuePosition | None:
        """A line as it stood lately; None: nobody knows."""

    def coming(self, queue: str, step: int, due: float) -> int | None:
        """How many are before a task that comes now; None: nobody knows."""


class WaitReasonReader:
    """Implements the Explain port. Reads once a second, however many ask."""

    def __init__(self, scripts: Scripts, clock: Clock, lines: QueuePositions) -> None:
        self._scripts = scripts
        self._clock = clock
        self._lines = lines
        self._lock = threading.Lock()
        self._read_at = -1e9
        self._said: Mapping[str, Any] = {}
        self._silent_because = NO_LEADER

    def explain(self, task: Queued) -> Explanation:
        """Where it stands, and what the leader said last; what is not known stays None."""
        now = self._clock.now()
        held = held_in_words(
            task.hold,
            task.available_at,
            now,
            attempts=task.attempts,
            batch_paused=task.batch_paused,
            code=task.code,
        )
        if held is not None:
            start = task.available_at if task.hold in (Hold.UNTIL, Hold.OFF_PEAK) else None
            return Explanation(estimated_start_at=start, waiting_for=held)
        paused = Pauses.of(self.said().get("dispatcher", {}).get("pauses", ())).holds(
            task.model, task.client_id
        )
        if paused is not None:
            return Explanation(waiting_for=paused.words)
        line = self._lines.of(task.queue, task.step)
        words = self._model(task.model).get("words") if self.said() else self._silent_because
        if line is None:
            return Explanation(waiting_for=words)
        ahead = line.ahead_of(task.due, task.sequence)
        return Explanation(ahead + 1, self._start(task.model, task.queue, task.step, ahead, now), words)

    def foresee(self, model: str, queue: str, step: int, due: float) -> QueueForecast | None:
        """What a task that came now would have before it; None where nobody knows."""
        ahead = self._lines.coming(queue, step, due)
        if ahead is None or not self.said():
            return None
        return QueueForecast(ahead, self._rate(model, queue, step), self._opens_in(model))

    def _start(self, model: str, queue: str, step: int, ahead: int, now: float) -> float | None:
        seconds = starts_in(ahead, self._rate(model, queue, step), self._opens_in(model))
        return None if seconds is None else now + seconds

    def _rate(self, model: str, queue: str, step: int) -> float | None:
        """The line's; where nothing waits in it yet, what the model's limits let pass in all."""
        said = self.said()
        rate: float | None = said.get("lines", {}).get(f"{queue}|{step}") or said.get("paces", {}).get(model)
        return rate

    def _opens_in(self, model: str) -> float:
        """Infinite where nobody knows."""
        told = self._model(model).get("opens_in", 0.0 if self.said() else None)
        return float("inf") if told is None else float(told)

    def _model(self, model: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.said().get("models", {}).get(model, {})
        return found

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
            self._silent_because = NO_REDIS
            return {}
        self._silent_because = NO_LEADER
        return dict(orjson.loads(found)) if found else {}
