"""When the leader asks for all heads, and when for what changed."""

from typing import Any

from app.pacing.store.queue_head_cache import EVERY, LOOKED, QueueHeadCache

ALICE: Any = ["backlog.m.alice", [[3, 2, ["task_1", "10|||1|||", "task_2", "10|||2|||"]]]]
BOB: Any = ["backlog.m.bob", [[3, 1, ["task_3", "10|||3|||"]]]]
GONE: Any = ["backlog.m.bob", {}]  # as Lua writes an empty list


def known(depth: int = 4, at: float = 100.0) -> QueueHeadCache:
    heads = QueueHeadCache()
    assert heads.since("term", depth) == 0
    heads.update(at, depth, True, 7, [ALICE, BOB], {"m"})
    return heads


def test_what_did_not_change_stays() -> None:
    heads = known()
    assert heads.since("term", 4) == 7
    told = heads.update(100.1, 4, False, 8, [GONE], {"m"})
    assert [(one.client, [head.task_id for head in one.heads]) for one in told] == [
        ("alice", ["task_1", "task_2"])
    ]
    assert heads.since("term", 4) == 8


def test_an_answer_that_is_lost_makes_it_ask_for_all() -> None:
    heads = known()
    heads.since("term", 4)
    assert heads.since("term", 4) == 0


def test_another_term_a_deeper_look_and_a_second_that_has_passed_ask_for_all() -> None:
    assert known().since("another", 4) == 0
    assert known().since("term", 5) == 0
    assert known(depth=3000).since("term", LOOKED + 1) == 0
    heads = known()
    heads.since("term", 4)
    heads.update(100.0 + EVERY, 4, False, 7, [], {"m"})
    assert heads.since("term", 4) == 0


def test_a_shallower_look_at_some_makes_the_next_deeper_one_whole() -> None:
    heads = known(depth=8)
    assert heads.since("term", 2) == 7
    heads.update(100.1, 2, False, 8, [BOB], {"m"})
    assert heads.since("term", 8) == 0


def test_models_that_nobody_serves_are_left_out() -> None:
    heads = QueueHeadCache()
    heads.since("term", 4)
    assert heads.update(1.0, 4, True, 1, [ALICE], {"another"}) == ()
