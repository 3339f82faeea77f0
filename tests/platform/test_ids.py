"""Ids: in the order of time, and nobody's twice."""

import subprocess
import sys

from app.tasks.domain.task import new_id

_FORKED = """
import os
from app.tasks.domain.task import new_id
new_id("task", 1.0)
reading, writing = os.pipe()
if os.fork() == 0:
    os.write(writing, new_id("task", 1.0).encode())
    os._exit(0)
print(new_id("task", 1.0), os.read(reading, 100).decode())
"""


def test_ids_of_one_instant_are_in_order_and_none_comes_twice() -> None:
    ids = [new_id("task", 1_800_000_000.0) for _ in range(5000)]
    assert ids == sorted(set(ids))
    assert {len(name) for name in ids} == {31}
    assert set("".join(name.removeprefix("task_") for name in ids)) <= set("0123456789abcdefghjkmnpqrstvwxyz")


def test_a_later_instant_sorts_behind() -> None:
    now = 1_900_000_000.0
    assert new_id("task", now) < new_id("task", now + 0.001)


def test_a_forked_process_draws_its_own_chance() -> None:
    said = subprocess.run([sys.executable, "-c", _FORKED], capture_output=True, text=True, check=True)
    ours, childs = said.stdout.split()
    assert ours[-11:] != childs[-11:]
