"""What a profile reads: the right rows of a long history, in bounded ranges."""

from itertools import pairwise

import pytest
from sqlalchemy import insert

from app.cli.time_profile import as_data, show
from app.diagnosis import profile_tasks
from app.diagnosis.domain.time_split import Part
from app.diagnosis.profile_tasks import ProfileTasks, RowRange, limits_of
from app.platform.database import Database
from app.settings.domain.routing import ConfiguredQuota, Topology
from app.tasks.store.tables import attempt, batch, task
from tests.tasks.rows import NOW, add, new_task, record, success, take

COUNT = 500


def _history(database: Database) -> None:
    """A call a second, of which every third number is missing."""
    rows = [
        {
            "seq": 3 * number, "task_id": f"task_{number}", "client_id": "alice", "release": 1, "worker": "w",
            "key": "main", "account": "acme", "upstream_model": "m", "outcome": "succeeded", "counted": True,
            "ready_at": NOW + number - 4, "released_at": NOW + number - 2, "started_at": NOW + number - 1.5,
            "sent_at": NOW + number - 1, "finished_at": NOW + number, "recorded_at": NOW + number + 0.25,
        }
        for number in range(1, COUNT + 1)
    ]  # fmt: skip
    database.write(lambda conn: conn.execute(insert(attempt), rows))


def test_an_instant_is_found_by_halving_the_numbers(database: Database) -> None:
    assert database.read(lambda conn: profile_tasks.attempts_since(conn, 0.0)).rows == 0
    _history(database)
    for since, rows in [
        (0.0, 500),
        (NOW + 1, 500),
        (NOW + 2, 499),
        (NOW + 250.5, 250),
        (NOW + 500, 1),
        (NOW + 501, 0),
    ]:
        span = database.read(lambda conn, at=since: profile_tasks.attempts_since(conn, at))
        read = [
            trip
            for block in span.blocks()
            for trip in database.read(lambda conn, b=block, at=since: profile_tasks.read_timings(conn, b, at))
        ]
        assert len(read) == rows, since
        assert all(trip.finished_at >= since for trip in read)


@pytest.mark.parametrize(
    ("rows", "most", "count"), [(0, 10, 0), (10, 10, 1), (1_000_000, 100_000, 20), (11, 10, 1)]
)
def test_blocks_are_bounded_apart_and_within(rows: int, most: int, count: int) -> None:
    span = RowRange(101, 100 + rows, most)
    blocks = span.blocks()
    assert len(blocks) == count
    assert sum(last - first + 1 for first, last in blocks) == min(rows, most)
    assert all(101 <= first <= last <= 100 + rows for first, last in blocks)
    assert all(before[1] < after[0] for before, after in pairwise(blocks))
    assert span.sampled == (rows > most)


def test_a_sample_is_said_to_be_one_and_its_shares_hold(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    _history(database)
    whole = ProfileTasks(database, Topology()).report(NOW, NOW + COUNT)
    monkeypatch.setattr(profile_tasks, "MOST_ROWS", 150)
    part = ProfileTasks(database, Topology()).report(NOW, NOW + COUNT)
    assert (whole.calls.sampled, whole.calls.read, whole.calls.rows) == (False, COUNT, COUNT)
    assert part.calls.sampled
    assert 0 < part.calls.read <= 150
    assert part.calls.rows == 3 * COUNT - 2
    for found in (whole.split, part.split):
        assert found.seconds[Part.SLOT] / found.total == pytest.approx(2 / 4.25)


def test_told_and_learned_figures_are_limits_and_nothing_else_is() -> None:
    figures = {"pace": {"level": 2.0}, "calls": {"level": 5.0}, "known": None}
    learned = {
        "account:acme:m": {"figures": figures, "latency": 1.0},
        "account:told:m": {"figures": figures},
        "upstream:sim:m": {"figures": figures},
        "key:idle:*": {"figures": {}},
        "tokens:m": {"used": 0.5},
        "odd": {},
    }
    topology = Topology(quotas={"account:told:m": ConfiguredQuota("account:told:m", rpm=60.0)})
    found = limits_of(topology, learned)
    assert [(limit.id, limit.rpm, limit.concurrency, limit.configured) for limit in found] == [
        ("account:told:m", 60.0, None, True),
        ("account:acme:m", 120.0, 5.0, False),
    ]


def test_the_instants_of_a_call_and_its_prompt_come_from_the_real_statements(database: Database) -> None:
    prompt = '{"messages":[{"role":"user","content":"say  hello"}],"max_tokens":50}'
    rows = [new_task(request=prompt) for _ in range(3)]
    add(database, *rows)
    claimed = take(database, *(row.id for row in rows), at=NOW + 2)
    assert all(one.ready_at == NOW for one in claimed.values())
    record(database, *(success(one, NOW + 5) for one in claimed.values()))
    report = ProfileTasks(database, Topology()).report(NOW - 1, NOW + 10)
    assert report.calls.read == 3
    assert report.split.seconds[Part.STARTING] == pytest.approx(6.0)
    [repeat] = report.repeats
    assert (repeat.times, repeat.shown, repeat.client) == (3, "say hello", "alice")
    database.write(lambda conn: conn.execute(task.update().values(client_id="erased")))
    assert ProfileTasks(database, Topology()).report(NOW - 1, NOW + 10).repeats[0].client == "erased"


def test_the_page_and_its_json_tell_percentiles_groups_and_proposals(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    _history(database)
    rows = {"id": "batch_1", "client_id": "alice", "status": "completed", "total": 500, "batch_size": 2}
    ended = {"created_at": NOW, "completed_at": NOW + 500}
    database.write(lambda conn: conn.execute(insert(batch).values(**rows, **ended)))
    found = ProfileTasks(database, Topology(), 1000, {"main": 0.1}).report(NOW, NOW + COUNT)
    told = as_data(found)
    [group] = told["by_model_and_key"]
    assert (group["key"], group["calls"]) == ("main", COUNT)
    assert group["network_seconds"]["p50"] == pytest.approx(0.6)
    assert group["inference_seconds"]["p99"] == pytest.approx(0.9)
    recording = next(part for part in told["parts"] if part["part"] == "recording")
    assert recording["per_call_p90"] == pytest.approx(0.25)
    assert {one["setting"]: one["value"] for one in told["proposals"]} == {"batch_size": "4"}
    assert told["in_force"][0]["rpm"] == pytest.approx(60)
    show(found)
    page = capsys.readouterr().out
    assert "P50" in page
    assert "0.6/0.6/0.6" in page
    assert "batch_size = 4" in page
