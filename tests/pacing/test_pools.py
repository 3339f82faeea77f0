"""A worker's slots count once, whichever of its queues they serve."""

from app.pacing.domain.route_availability import Consumer, allocate_slots


def test_keys_of_one_worker_share_its_slots() -> None:
    pools, slots = allocate_slots([Consumer(("k1", "k2"), 10)], {"k1": 3})
    assert pools["k1"] == pools["k2"]
    assert slots == {pools["k1"]: 7}


def test_workers_with_keys_of_their_own_have_pools_of_their_own() -> None:
    pools, slots = allocate_slots([Consumer(("k1",), 10), Consumer(("k2",), 5)], {"k1": 12})
    assert slots[pools["k1"]] == 0
    assert slots[pools["k2"]] == 5


def test_a_worker_that_consumes_both_joins_pools() -> None:
    pools, slots = allocate_slots([Consumer(("k1",), 1), Consumer(("k2",), 2), Consumer(("k1", "k2"), 4)], {})
    assert pools["k1"] == pools["k2"]
    assert sum(slots.values()) == 7


def test_without_workers_there_are_no_pools() -> None:
    assert allocate_slots([], {"k1": 1}) == ({}, {})
