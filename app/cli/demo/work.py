"""The demo's work: prompts in, singly and as a batch, and how far they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from app.cli.remote import Remote

PROMPTS = Path(__file__).with_name("prompts.txt")
SINGLY = 0.2  # this share of them; the rest is one batch
_PRIORITIES = ("normal", "high", "normal", "low")
_PAGE = 100


@dataclass(frozen=True, slots=True)
class DemoSubmission:
    """What was accepted."""

    task_ids: tuple[str, ...]  # those submitted singly
    batch_id: str
    batch_size: int
    callbacks: int  # to expect: one for each single task, one for the batch


@dataclass(frozen=True, slots=True)
class DemoProgress:
    """How far it is."""

    succeeded: int
    failed: int  # or cancelled, or expired

    @property
    def ended(self) -> int:
        """Tasks that reached an end."""
        return self.succeeded + self.failed


def prompts(count: int) -> list[str]:
    """So many prompts, English and Chinese in turn; beyond 200 they come again."""
    known = PROMPTS.read_text(encoding="utf-8").splitlines()
    return [known[number % len(known)] for number in range(count)]


def submit(remote: Remote, texts: Sequence[str], callback_url: str) -> DemoSubmission:
    """Send a fifth of them one by one, of unlike priorities, and the rest as a batch."""
    single = max(1, round(len(texts) * SINGLY))
    ids = [
        remote.post(
            "/v1/tasks",
            {
                "prompt": text,
                "parameters": {"max_tokens": 200},
                "priority": _PRIORITIES[number % len(_PRIORITIES)],
                "callback_url": callback_url,
                "metadata": {"demo": "single"},
            },
        )["id"]
        for number, text in enumerate(texts[:single])
    ]
    requests = [{"prompt": text, "parameters": {"max_tokens": 200}} for text in texts[single:]]
    batch = remote.post("/v1/batch", {"requests": requests, "callback_url": callback_url})
    return DemoSubmission(tuple(ids), batch["id"], len(requests), callbacks=single + 1)


class DemoWatch:
    """Asks how far the tasks are; ended ones are asked for once."""

    def __init__(self, remote: Remote, submitted: DemoSubmission) -> None:
        self._remote = remote
        self._submitted = submitted
        self._ended: dict[str, str] = {}

    def progress(self) -> DemoProgress:
        """Ask now. Raises Failure."""
        for task_id in self._submitted.task_ids:
            if task_id not in self._ended:
                status = self._remote.get(f"/v1/tasks/{task_id}")["status"]
                if status not in ("queued", "running"):
                    self._ended[task_id] = status
        counts = self._remote.get(f"/v1/batch/{self._submitted.batch_id}")["request_counts"]
        good = sum(status == "succeeded" for status in self._ended.values())
        bad = len(self._ended) - good
        return DemoProgress(good + counts["completed"], bad + counts["failed"] + counts.get("cancelled", 0))


def all_tasks(remote: Remote) -> list[dict[str, Any]]:
    """Every task of this client, page by page."""
    found: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        page = remote.get("/v1/tasks", limit=_PAGE, after=after)
        found += page["data"]
        if not page["has_more"] or not page["data"]:
            return found
        after = page["last_id"]


def spans(tasks: Sequence[dict[str, Any]]) -> tuple[list[float], float]:
    """(seconds from submission to end of each ended task, seconds from the first submission to the last end)."""
    times = [(_seconds(t["created_at"]), _seconds(t["finished_at"])) for t in tasks if t["finished_at"]]
    if not times:
        return [], 0.0
    return [end - start for start, end in times], max(t[1] for t in times) - min(t[0] for t in times)


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
