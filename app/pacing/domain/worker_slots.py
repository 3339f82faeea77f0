"""Which workers' slots a key may count on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Consumer:
    """A live worker process: the keys whose queues it consumes, and its pool's size."""

    keys: tuple[str, ...]
    slots: int


def allocate_slots(
    consumers: Iterable[Consumer], flights: Mapping[str, int]
) -> tuple[dict[str, str], dict[str, int]]:
    """Give back the pool of each key, and the free slots of each pool.

    Keys that are reachable from each other through workers share a pool, named by one of its keys: a worker that
    consumes several queues has its slots only once. Permits that are out (`flights`, by key) take slots.
    """
    pools: dict[str, str] = {}

    def root(key: str) -> str:
        while pools[key] != key:
            key = pools[key]
        return key

    consumers = [c for c in consumers if c.keys]
    for consumer in consumers:
        for key in consumer.keys:
            pools.setdefault(key, key)
            pools[root(key)] = root(consumer.keys[0])
    of_key = {key: root(key) for key in pools}
    free = dict.fromkeys(of_key.values(), 0)
    for consumer in consumers:
        free[of_key[consumer.keys[0]]] += consumer.slots
    for key, pool in of_key.items():
        free[pool] -= flights.get(key, 0)
    return of_key, {pool: max(0, slots) for pool, slots in free.items()}
