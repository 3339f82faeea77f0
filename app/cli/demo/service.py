"""The demo's service: `penstock up` as it is, in a temporary folder on free ports."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.cli.failure import CommandFailure
from app.cli.profile import Profile, load
from app.cli.supervisor.child import Child
from app.cli.supervisor.decisions import Component

START_SECONDS = 180.0
STOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class DemoService:
    """A service that is ready."""

    folder: Path
    profile: Profile


@contextmanager
def service(options: Sequence[str], waiting: Callable[[], None]) -> Iterator[DemoService]:
    """Run `penstock up` with these options for as long as the block lasts; then nothing of it remains.

    It dies with this process, whatever that one's death is. `waiting` is called now and then until it is ready.
    Raises Failure with its last words, and keeps the folder, when it does not start.
    """
    folder = Path(tempfile.mkdtemp(prefix="penstock-demo-"))
    lifeline, held = os.pipe()
    child = Child(
        _up(folder, options), _environment(), lifeline, folder / "up.log", lambda _name, _line: None
    )
    keep = False
    try:
        _await(child, waiting)
        yield DemoService(folder, load(folder))
    except CommandFailure as failure:
        keep = True
        failure.mend = "\n  ".join(filter(None, [failure.mend, f"The logs are kept in {folder / 'logs'}"]))
        raise
    finally:
        _end(child)
        os.close(held)
        os.close(lifeline)
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _up(folder: Path, options: Sequence[str]) -> Component:
    command = (sys.executable, "-P", "-m", "app.cli", "up", "--data", str(folder))
    return Component("up", (*command, "--port", "0", "--flower-port", "0", *options))


def _environment() -> dict[str, str]:
    """Ours, without what points to the operator's own service."""
    private = {"DATABASE_URL", "REDIS_URL", "PENSTOCK_CONFIG", "PENSTOCK_DATA", "PENSTOCK_ADMIN_KEY"}
    private |= {"PENSTOCK_FLOWER_AUTH", "PENSTOCK_URL", "PENSTOCK_API_KEY"}
    checkout = str(Path(__file__).resolve().parents[3])
    kept = {name: value for name, value in os.environ.items() if name not in private}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, [checkout, kept.get("PYTHONPATH")]))}


def _await(child: Child, waiting: Callable[[], None]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not child.is_ready():
        if child.ended() is not None:
            raise CommandFailure("the service did not start", "\n  ".join(child.tail))
        if time.monotonic() > deadline:
            raise CommandFailure(f"the service was not ready within {START_SECONDS:.0f} s")
        waiting()
        time.sleep(0.1)


def _end(child: Child) -> None:
    """SIGTERM and patience; then by force."""
    child.tell(signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while child.ended() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    child.kill()
    child.close()
