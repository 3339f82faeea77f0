"""The set-ups of docs/routing.md: each loads, and routes as it says."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import pytest

from app.pacing.domain.fairness import Shares
from app.pacing.domain.plan import QueueHead, Snapshot, WaitingList, plan
from app.settings import Settings, load_settings
from app.settings.domain.routing import QuotaState, Topology
from app.settings.price_lists import all_calendars
from app.settings.topology import build_topology
from app.submission.check_request import SubmissionRules, conditions_of, draft_task
from app.submission.domain.request import TaskRequest
from app.tasks.domain.task import Priority

PAGE = Path(__file__).parents[2] / "docs" / "routing.md"
NAMES = ("official-1", "official-2", "official-3", "third-1", "third-2", "edge")
NOW = 1_700_000_000.0
FULL = QuotaState(cap=0)


def example(tmp_path: Path, title: str) -> Settings:
    found = re.search(rf"```toml\n# {title}\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert found, title
    keys = "".join(f'[[key]]\nname = "{name}"\nupstream = "{name}"\nsecret = "env:X"\n' for name in NAMES)
    ups = "".join(
        f'[[upstream]]\nname = "{name}"\nbase_url = "https://{name}.example/v1"\n' for name in NAMES
    )
    file = tmp_path / "penstock.toml"
    file.write_text(found[1] + ups + keys, encoding="utf-8")
    return load_settings(file, {})


def routed(
    settings: Settings,
    prompt: str = "a question " * 200,
    *,
    client: str = "alice",
    waited: float = 0.0,
    full: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    now: float = NOW,
    **wishes: object,
) -> str:
    """The key to which a task goes; '' when it waits. `full` keys take nothing."""
    rules = SubmissionRules(
        frozenset({"deepseek-flash"}),
        "deepseek-flash",
        conditions=conditions_of(settings),
        calendars=all_calendars(settings),
        regions=settings.regions,
    )
    request = TaskRequest([{"role": "user", "content": prompt}], **wishes)  # type: ignore[arg-type]
    row = draft_task(request, client, rules, now)
    topology: Topology = build_topology(settings)
    head = QueueHead("t", 10, notes, row.facts or "")
    waiting = WaitingList(row.queue, "deepseek-flash", client, 3, 1, (head,))
    quotas = {f"key:{name}:*": FULL for name in full}
    pools = dict.fromkeys(topology.keys, "p")
    made = plan(Snapshot(now, (waiting,), quotas, pools, {"p": 9}, wall=now + waited), topology, Shares())
    return made.releases[0].route.key if made.releases else ""


def test_three_plus_two(tmp_path: Path) -> None:
    settings = example(tmp_path, "three plus two")
    assert routed(settings) == "official-1"
    assert routed(settings, full=("official-1", "official-2", "official-3")) == "third-1"


def test_edge_first(tmp_path: Path) -> None:
    settings = example(tmp_path, "edge first")
    assert routed(settings, "short") == "edge"
    assert routed(settings, metadata={"kind": "keywords"}) == "edge"
    assert routed(settings) == "official-1"
    assert routed(settings, "short", full=("edge",)) == "official-1"


def test_dedicated_plus_burst(tmp_path: Path) -> None:
    settings = example(tmp_path, "dedicated plus burst")
    assert routed(settings, waited=90) == "official-1"
    assert routed(settings, full=("official-1",), waited=30) == ""
    assert routed(settings, full=("official-1",), waited=61) == "third-1"


def at(text: str) -> float:
    """Unix seconds of a time in Beijing."""
    return datetime.fromisoformat(f"{text}+08:00").timestamp()


@pytest.mark.parametrize(
    ("submitted", "waited", "key"),
    [
        ("2026-11-30T09:59:59", 0, "official-1"),  # a Monday
        ("2026-11-30T10:00:00", 0, "third-1"),
        ("2026-11-30T11:59:59", 0, "third-1"),
        ("2026-11-30T12:00:00", 0, "official-1"),
        ("2026-11-30T15:00:00", 0, "third-1"),
        ("2026-11-30T17:00:00", 0, "official-1"),
        ("2026-11-29T10:30:00", 0, "official-1"),  # a Sunday
        ("2026-11-30T09:50:00", 601, "third-1"),  # its wait went into peak hours
        ("2026-11-30T11:50:00", 601, "official-1"),
        ("2026-11-29T11:00:00", 86400, "third-1"),
    ],
)
def test_elsewhere_in_peak_hours(tmp_path: Path, submitted: str, waited: float, key: str) -> None:
    settings = example(tmp_path, "peak hours")
    assert routed(settings, now=at(submitted), waited=waited) == key


def test_high_priority_keeps_its_key_in_peak_hours(tmp_path: Path) -> None:
    settings = example(tmp_path, "peak hours")
    assert routed(settings, now=at("2026-11-30T10:30:00"), priority=Priority.HIGH) == "official-1"


@pytest.mark.parametrize(("client", "key"), [("acme", "edge"), ("bob", "official-1")])
def test_by_region(tmp_path: Path, client: str, key: str) -> None:
    assert routed(example(tmp_path, "region"), client=client) == key


def test_falls(tmp_path: Path) -> None:
    settings = example(tmp_path, "falls")
    assert routed(settings) == "official-1"
    assert routed(settings, notes=("tier:context_length",)) == "third-1"
    assert routed(settings, notes=("tier:content_filter",)) == "third-2"
    assert routed(settings, full=("official-1",)) == ""
