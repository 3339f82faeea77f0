"""What is kept is given again, to its key alone, for its time alone, within bounds; what fails keeps nothing."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from app.caching.domain.caching import AnswerCache, CachedAnswer, NoAnswers, read, write
from app.caching.local_answers import LocalAnswers
from app.caching.store.database_answers import DatabaseAnswers, bound, cache_entry
from app.caching.store.redis_answers import RedisAnswers
from app.platform.database import Database
from app.platform.domain.money import CallCost
from app.tasks.domain.attempt import TokenUsage
from tests.caching.clocks import MovableClock
from tests.servers import RedisServer
from tests.stack import wait_until

ANSWER = CachedAnswer('{"text":"two lines\\n 你好 \\u0000"}', TokenUsage(7, 5, 2, 1), CallCost(12, "USD"))
OTHER = CachedAnswer('{"text":"other"}')
counts = st.integers(0, 2**31 - 1)
any_answer = st.builds(
    CachedAnswer,
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.none() | st.builds(TokenUsage, counts, counts, counts, counts),
    st.none() | st.builds(CallCost, st.integers(0, 10**15), st.sampled_from(["USD", "CNY"])),
)


@given(any_answer, st.text())
def test_an_entry_reads_back_as_what_it_was_and_only_under_its_own_key(
    answer: CachedAnswer, other: str
) -> None:
    entry = write("client:alice:abc", answer)
    assert read("client:alice:abc", entry) == answer
    assert other == "client:alice:abc" or read(other, entry) is None


@pytest.mark.parametrize(
    "entry", ["", "{", "[]", "null\n{}", '{"key":"k"}\n{}', '{"key":"k","usage":1,"cost":2}\n{}']
)
def test_what_is_no_whole_entry_is_no_answer(entry: str) -> None:
    assert read("k", entry) is None


def test_a_simulated_answer_is_never_written_down() -> None:
    with pytest.raises(ValueError, match="simulated"):
        write("k", CachedAnswer("{}", simulated=True))


def test_what_is_kept_is_found_under_its_key_and_no_other(answers: AnswerCache) -> None:
    answers.keep("client:alice:1", ANSWER, 60)
    answers.keep("client:bob:1", OTHER, 60)
    keys = ["client:alice:1", "client:alice:2", "client:bob:1"]
    assert answers.look(keys) == {"client:alice:1": ANSWER, "client:bob:1": OTHER}
    assert answers.look([]) == {}


def test_a_newer_answer_takes_the_place_of_an_older_one(answers: AnswerCache) -> None:
    answers.keep("k", ANSWER, 60)
    answers.keep("k", OTHER, 60)
    assert answers.look(["k"]) == {"k": OTHER}


def test_an_answer_lives_as_long_as_it_was_to_be_kept(database: Database, clock: MovableClock) -> None:
    kept = DatabaseAnswers(database, clock)
    kept.keep("k", ANSWER, 60)
    clock.ahead = 30
    assert kept.look(["k"])
    clock.ahead = 61
    assert kept.look(["k"]) == {}
    kept.close()


def test_an_answer_in_redis_dies_by_itself(redis_answers: RedisAnswers) -> None:
    redis_answers.keep("k", ANSWER, 0.05)
    wait_until(lambda: redis_answers.look(["k"]) == {})


def test_in_redis_the_least_recently_used_make_room(redis_answers: RedisAnswers) -> None:
    for number in range(5):
        redis_answers.keep(f"k{number}", ANSWER, 60)
    assert redis_answers.look(["k0"])
    for number in (5, 6):
        redis_answers.keep(f"k{number}", ANSWER, 60)
    found = redis_answers.look([f"k{number}" for number in range(7)])
    assert sorted(found) == ["k0", "k3", "k4", "k5", "k6"]


def test_in_redis_nothing_unused_outlives_the_longest_life(
    redis_answers: RedisAnswers, redis_url: str
) -> None:
    redis_answers.keep("old", ANSWER, 60)
    with redis.Redis.from_url(redis_url) as client:
        client.zadd("penstock:cache:used", {"penstock:cache:old": 1}, xx=True)
        redis_answers.keep("new", ANSWER, 60)
        assert client.zrange("penstock:cache:used", 0, -1) == [b"penstock:cache:new"]


def test_in_the_database_the_expired_and_then_the_least_recently_used_go(
    database: Database, clock: MovableClock
) -> None:
    kept = DatabaseAnswers(database, clock)
    for number in range(6):
        kept.keep(f"k{number}", ANSWER, 60 if number else 1)
        used = (
            update(cache_entry).where(cache_entry.c.key == f"k{number}").values(used_at=clock.now() + number)
        )
        database.write(lambda conn, used=used: conn.execute(used))
    clock.ahead = 2
    while database.write(lambda conn: bound(conn, 3, clock.now(), 1)):
        pass
    assert sorted(_keys(database)) == ["k3", "k4", "k5"]
    kept.close()


def test_in_the_database_a_use_is_noted_now_and_then(database: Database, clock: MovableClock) -> None:
    kept = DatabaseAnswers(database, clock)
    kept.keep("k", ANSWER, 10_000)
    first = _used(database)
    clock.ahead = 100
    kept.look(["k"])
    assert _used(database) == first
    clock.ahead = 700
    kept.look(["k"])
    assert _used(database) > first + 600
    kept.close()


class Counting(NoAnswers):
    """A place that counts how often it is asked."""

    def __init__(self) -> None:
        self.kept: dict[str, CachedAnswer] = {}
        self.asked: list[str] = []
        self.uses: Counter[str] = Counter()

    def look(self, keys: Collection[str], *, stale: bool = False) -> Mapping[str, CachedAnswer]:
        self.asked.extend(keys)
        return {key: self.kept[key] for key in keys if key in self.kept}

    def keep(self, key: str, answer: CachedAnswer, seconds: float) -> None:
        self.kept[key] = answer

    def count_uses(self, uses: Mapping[str, int]) -> None:
        self.uses.update(uses)


def test_a_process_asks_once_in_five_minutes_for_what_is_there(clock: MovableClock) -> None:
    inner = Counting()
    local = LocalAnswers(inner, clock, seconds=300, most_bytes=10**6)
    inner.keep("k", ANSWER, 60)
    for _ in range(3):
        assert local.look(["k", "missing"])["k"] == ANSWER
    assert inner.asked == ["k", "missing", "missing", "missing"]
    clock.ahead = 301
    local.look(["k"])
    assert inner.asked[-1] == "k"


def test_what_one_process_replaces_another_gives_no_more_a_second_later(
    answers: AnswerCache, clock: MovableClock
) -> None:
    here, there = (LocalAnswers(answers, clock, seconds=300, most_bytes=10**6) for _ in range(2))
    here.keep("k", ANSWER, 600)
    here.keep("other", ANSWER, 600)
    assert there.look(["k"]) == {"k": ANSWER}
    here.keep("k", OTHER, 600)
    clock.ahead += 1.1
    assert there.look(["k", "other"]) == {"k": OTHER, "other": ANSWER}


def test_what_was_read_before_a_replacement_is_not_remembered_after_it(clock: MovableClock) -> None:
    inner = Counting()
    inner.keep("k", ANSWER, 60)
    local = LocalAnswers(inner, clock, seconds=300, most_bytes=10**6)
    stamps = iter(["1", "2", "2"])
    inner.stamp = lambda: next(stamps)  # type: ignore[method-assign]
    read = inner.look

    def read_slowly(keys: Collection[str]) -> Mapping[str, CachedAnswer]:
        old = read(keys)
        inner.look = read  # type: ignore[method-assign]
        inner.keep("k", OTHER, 60)
        clock.ahead += 1.1
        assert local.look(["k"]) == {"k": OTHER}
        return old

    inner.look = read_slowly  # type: ignore[method-assign]
    local.look(["k"])
    assert local.look(["k"]) == {"k": OTHER}


def test_while_nobody_can_tell_what_was_replaced_nothing_remembered_is_given(
    make_redis: Callable[..., RedisServer], clock: MovableClock
) -> None:
    server = make_redis()
    kept = RedisAnswers(server.url, clock, entries=5, longest_seconds=1000)
    local = LocalAnswers(kept, clock, seconds=300, most_bytes=10**6)
    local.keep("k", ANSWER, 600)
    server.kill()
    clock.ahead += 1.1
    assert local.look(["k"]) == {}
    server.restart()
    clock.ahead += 1.1
    local.keep("k", ANSWER, 600)
    assert local.look(["k"]) == {"k": ANSWER}
    local.close()


def test_what_is_kept_for_less_is_remembered_for_less(clock: MovableClock) -> None:
    inner = Counting()
    local = LocalAnswers(inner, clock, seconds=300, most_bytes=10**6)
    local.keep("k", ANSWER, 10)
    inner.kept.clear()
    clock.ahead = 5
    assert local.look(["k"])
    clock.ahead = 11
    assert local.look(["k"]) == {}


def test_nobody_remembers_an_answer_for_longer_than_it_is_kept(
    answers: AnswerCache, clock: MovableClock
) -> None:
    answers.keep("k", ANSWER, 10)
    (kept,) = answers.look(["k"]).values()
    assert kept.until == pytest.approx(clock.now() + 10, abs=5)
    inner = Counting()
    inner.keep("k", kept, 10)
    elsewhere = LocalAnswers(inner, clock, seconds=300, most_bytes=10**6)
    assert elsewhere.look(["k"]) == {"k": ANSWER}
    inner.kept.clear()
    clock.ahead += 11
    assert elsewhere.look(["k"]) == {}


def test_a_process_remembers_no_more_than_it_may(clock: MovableClock) -> None:
    inner = Counting()
    local = LocalAnswers(inner, clock, seconds=300, most_bytes=100_000)
    for number in range(200):
        local.keep(f"k{number}", CachedAnswer("x" * 4_000), 60)
    inner.kept.clear()
    assert 15 <= len(local.look([f"k{number}" for number in range(200)])) <= 20
    local.keep("huge", CachedAnswer("y" * 200_000), 60)
    inner.kept.clear()
    assert local.look(["huge"]) == {}


def test_without_its_redis_nothing_is_kept_and_nobody_waits(
    make_redis: Callable[..., RedisServer], clock: MovableClock
) -> None:
    server = make_redis()
    answers = RedisAnswers(server.url, clock, entries=5, longest_seconds=1000)
    answers.keep("k", ANSWER, 60)
    server.kill()
    began = clock.monotonic()
    for _ in range(100):
        assert answers.look(["k"]) == {}
        answers.keep("k", ANSWER, 60)
    assert clock.monotonic() - began < 20  # not 250 ms for each of them
    answers.close()


def test_without_the_database_nothing_is_kept_and_nothing_raised(tmp_path: Path, clock: MovableClock) -> None:
    nowhere = Database(f"sqlite:///{tmp_path}/no/such/folder.db")
    answers = DatabaseAnswers(nowhere, clock)
    answers.keep("k", ANSWER, 60)
    assert answers.look(["k"]) == {}
    answers.close()


def test_the_brokers_database_under_another_name_is_left_alone(redis_url: str, clock: MovableClock) -> None:
    same = redis_url.replace("127.0.0.1", "localhost")
    answers = RedisAnswers(same, clock, entries=5, longest_seconds=10, broker_url=redis_url)
    answers.keep("k", ANSWER, 60)
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys("penstock:cache:*") == []
    answers.close()


def test_another_database_of_the_brokers_server_is_taken(redis_url: str, clock: MovableClock) -> None:
    other = redis_url.rstrip("/").removesuffix("/0") + "/1"
    answers = RedisAnswers(other, clock, entries=5, longest_seconds=10, broker_url=redis_url)
    answers.keep("k", ANSWER, 60)
    assert answers.look(["k"]) == {"k": ANSWER}
    answers.close()


operations = st.lists(
    st.tuples(st.sampled_from(["alice", "bob", "carol"]), st.integers(0, 3), st.booleans()), max_size=30
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations)
def test_whatever_is_asked_in_whatever_order_nobody_gets_anothers_answer(
    answers: AnswerCache, steps: list[tuple[str, int, bool]]
) -> None:
    for client, prompt, keeps in steps:
        if keeps:
            answers.keep(f"client:{client}:{prompt}", CachedAnswer(f'"{client} {prompt}"'), 60)
        asked = [f"client:{client}:{number}" for number in range(4)]
        for key, answer in answers.look(asked).items():
            assert answer.result == f'"{client} {key[-1]}"'


def _keys(database: Database) -> list[str]:
    return list(database.read(lambda conn: conn.execute(select(cache_entry.c.key)).scalars().all()))


def _used(database: Database) -> float:
    return float(database.read(lambda conn: conn.execute(select(cache_entry.c.used_at)).scalar_one()))
