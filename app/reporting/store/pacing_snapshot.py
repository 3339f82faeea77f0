"""What Redis shows of pacing, read-only: quotas, queues and workers, and the wait reasons that the leader publishes."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import redis

from app.pacing.domain.why import NO_LEADER, NO_REDIS, held_in_words, starts_in
from app.pacing.ports import Explanation, Queued, QueueForecast
from app.pacing.store.lines import Lines
from app.platform.domain.errors import RedisUnreachable
from app.platform.domain.names import key_queue, redis_list
from app.platform.ports import Clock
from app.platform.redis_scripts import Scripts
from app.reporting.domain.snapshot import PacingSnapshot, QuotaSnapshot, WorkerSnapshot
from app.tasks.domain.pauses import Pauses
from app.tasks.domain.task import Hold, PriorityStep

MOST_QUEUES = 2000  # backlog queues whose lengths are read
_REPORT_LIFE = 5.0  # seconds for which a worker's report is valid


class PacingSnapshotReader:
    """Reads the state that the pacing scripts keep."""

    def __init__(self, client: redis.Redis, keys: Sequence[str], quotas: Sequence[str]) -> None:
        self._client = client
        self._keys = tuple(keys)
        self._quotas = tuple(quotas)

    def look(self) -> PacingSnapshot:
        """The current state. Raises RedisUnreachable."""
        try:
            return self._look()
        except (redis.RedisError, OSError) as error:
            raise RedisUnreachable(f"Redis does not answer: {type(error).__name__}") from error
        except (
            ValueError,
            TypeError,
            LookupError,
        ) as error:  # the leader sets such entries aside at its next tick
            raise RedisUnreachable(f"Redis holds unreadable entries: {type(error).__name__}") from error

    def _look(self) -> PacingSnapshot:
        clock, gate, queues, flights, workers, released, *quotas = self._first()
        names = sorted(name.decode() for name in queues)[:MOST_QUEUES]
        lengths = self._lengths(names)
        now = clock[0] + clock[1] / 1e6 - float(gate.get(b"skew") or 0)
        said = [_worker(name, report, now) for name, report in workers.items()]
        live = [worker for worker in said if worker.age < _REPORT_LIFE]
        found = {name: _quota(name, row, now) for name, row in zip(self._quotas, quotas, strict=True)}
        return PacingSnapshot(
            term=(gate.get(b"term") or b"").decode(),
            beat=int(gate.get(b"beat") or 0),
            queues={name: lengths[name] for name in names},
            keys={key: lengths[key_queue(key)] for key in self._keys},
            flights={key.decode(): int(count) for key, count in flights.items()},
            released=int(released),
            workers=len(live),
            slots=sum(worker.slots for worker in live),
            quotas=found,
            reports=live,
            now=now,
        )

    def _first(self) -> list[Any]:
        with self._client.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.hgetall("penstock:gate")
            pipe.hkeys("penstock:queues")
            pipe.hgetall("penstock:flight")
            pipe.hgetall("penstock:workers")
            pipe.zcard("penstock:unredeemed")
            for name in self._quotas:
                pipe.hgetall(f"penstock:quota:{name}")
            return list(pipe.execute())

    def _lengths(self, backlogs: Sequence[str]) -> dict[str, int]:
        """Messages by queue. Key queues use the first step alone."""
        lists = [(name, redis_list(name, step)) for name in backlogs for step in PriorityStep]
        lists += [(name, name) for name in map(key_queue, self._keys)]
        with self._client.pipeline(transaction=False) as pipe:
            for _, name in lists:
                pipe.llen(name)
            counts = pipe.execute()
        found: dict[str, int] = {}
        for (queue, _), count in zip(lists, counts, strict=True):
            found[queue] = found.get(queue, 0) + int(count)
        return found


def _quota(name: str, row: Mapping[bytes, bytes], now: float) -> QuotaSnapshot:
    cap = _number(row, b"cap")
    return QuotaSnapshot(
        name,
        _number(row, b"rate"),
        None if cap is None else int(cap),
        _number(row, b"token_rate"),
        int(_number(row, b"flight") or 0),
        max(0.0, (_number(row, b"until") or 0.0) - now),
        (row.get(b"why") or b"").decode(errors="replace"),
        int(_number(row, b"brakes") or 0),
    )


def _number(row: Mapping[bytes, bytes], name: bytes) -> float | None:
    value = row.get(name)
    return float(value) if value else None


def _worker(name: bytes, report: bytes, now: float) -> WorkerSnapshot:
    at, _, facts = report.partition(b"|")
    said = orjson.loads(facts)
    pool = said.get("pool", said["slots"])  # a worker of an earlier release does not report it
    return WorkerSnapshot(name.decode(), tuple(said["keys"]), int(pool), int(said["held"]), now - float(at))


_KEY = "penstock:why"
_LIFE = 10  # seconds until a report without a successor expires
_READ_EVERY = 1.0  # seconds


class WaitReasonWriter:
    """Publishes the leader's report."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def publish(self, said: Mapping[str, Any]) -> None:
        """Replace the previous report. Raises RedisUnreachable."""
        self._scripts.command("SET", _KEY, orjson.dumps(said), "EX", _LIFE)


class WaitReasonReader:
    """Implements the Explain port. Reads once a second, however many threads ask; `_lock` guards what it read."""

    def __init__(self, scripts: Scripts, clock: Clock, lines: Lines) -> None:
        self._scripts = scripts
        self._clock = clock
        self._lines = lines
        self._lock = threading.Lock()
        self._read_at = -1e9
        self._said: Mapping[str, Any] = {}
        self._silent_because = NO_LEADER

    def explain(self, task: Queued) -> Explanation:
        """Its position and the leader's last reason; unknown parts stay None."""
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
        """The queue ahead of a task submitted now; None: unknown."""
        ahead = self._lines.coming(queue, step, due)
        if ahead is None or not self.said():
            return None
        return QueueForecast(ahead, self._rate(model, queue, step), self._opens_in(model))

    def is_down(self, model: str) -> bool:
        """Whether the leader reports that nothing can serve a model."""
        return model in self.said().get("down", ())

    def is_keyless(self, model: str) -> bool:
        """Whether the leader reports that every key of a model is refused or unpaid."""
        return model in self.said().get("keyless", ())

    def _start(self, model: str, queue: str, step: int, ahead: int, now: float) -> float | None:
        seconds = starts_in(ahead, self._rate(model, queue, step), self._opens_in(model))
        return None if seconds is None else now + seconds

    def _rate(self, model: str, queue: str, step: int) -> float | None:
        """The queue's release rate, or for an empty queue the total rate that the model's limits allow."""
        said = self.said()
        rate: float | None = said.get("lines", {}).get(f"{queue}|{step}") or said.get("paces", {}).get(model)
        return rate

    def _opens_in(self, model: str) -> float:
        """Infinite if unknown."""
        seconds = self._model(model).get("opens_in", 0.0 if self.said() else None)
        return float("inf") if seconds is None else float(seconds)

    def _model(self, model: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.said().get("models", {}).get(model, {})
        return found

    def said(self) -> Mapping[str, Any]:
        """The whole report; empty without a leader or without Redis."""
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
