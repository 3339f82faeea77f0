"""A look at the gate for people: two round trips, nothing changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import redis

from app.platform.domain.errors import RedisUnreachable
from app.platform.domain.names import key_queue, redis_list
from app.reporting.domain.pacing_snapshot import PacingSnapshot, QuotaSnapshot, WorkerSnapshot
from app.tasks.domain.task import PriorityStep

MOST_QUEUES = 2000  # backlog queues whose lengths are asked for at once
_REPORT_LIFE = 5.0  # seconds for which a worker's report is believed


class PacingSnapshotReader:
    """Reads what the gate's scripts have written."""

    def __init__(self, client: redis.Redis, keys: Sequence[str], quotas: Sequence[str]) -> None:
        self._client = client
        self._keys = tuple(keys)
        self._quotas = tuple(quotas)

    def look(self) -> PacingSnapshot:
        """The gate as it stands. Raises RedisUnreachable."""
        try:
            return self._look()
        except (redis.RedisError, OSError) as error:
            raise RedisUnreachable(f"Redis does not answer: {type(error).__name__}") from error
        except (ValueError, TypeError, LookupError) as error:  # the leader sets that aside at its next look
            raise RedisUnreachable(f"Redis holds what cannot be read: {type(error).__name__}") from error

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
    return WorkerSnapshot(
        name.decode(), tuple(said["keys"]), int(said["slots"]), int(said["held"]), now - float(at)
    )
