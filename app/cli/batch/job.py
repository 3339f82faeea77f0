"""What is remembered here of a batch that was submitted from here: its file, and where its results go."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from app.cli.profile import data_folder, write_private


@dataclass(frozen=True, slots=True)
class Job:
    """A batch's origin. Empty text: not known."""

    source: str = ""
    kind: str = ""
    out: str = ""
    encoding: str = ""
    delimiter: str = ""


def load_job(batch_id: str) -> Job:
    """What is known of a batch; an empty job where nothing is."""
    try:
        stored = json.loads(_place(batch_id).read_text())
        return Job(**{name: str(stored.get(name, "")) for name in Job.__slots__})
    except (OSError, ValueError, AttributeError):
        return Job()


def save_job(batch_id: str, job: Job) -> None:
    """Remember it."""
    place = _place(batch_id)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_private(place, json.dumps(asdict(job)) + "\n")


def _place(batch_id: str) -> Path:
    return data_folder(os.environ) / "jobs" / f"{Path(batch_id).name}.json"
