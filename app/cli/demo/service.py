"""The demo's service: `penstock up` in a temporary folder on free ports; and its backlog, read from Flower."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import urllib3

from app.cli.failure import CommandFailure
from app.cli.profile import Profile, load
from app.cli.supervisor.child import Child
from app.cli.supervisor.decisions import Component
from app.platform.background_loop import BackgroundLoop
from app.platform.domain.names import BACKLOG, KEY

START_SECONDS = 180.0
STOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class DemoService:
    """A running service."""

    folder: Path
    profile: Profile


@contextmanager
def service(options: Sequence[str], waiting: Callable[[], None]) -> Iterator[DemoService]:
    """Run `penstock up` with these options for the length of the block, then remove it.

    It dies with this process, however that ends. `waiting` is called repeatedly until it is ready. If it does not
    start, raises CommandFailure with its last output and keeps the folder.
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
        failure.hint = "\n  ".join(filter(None, [failure.hint, f"The logs are in {folder / 'logs'}"]))
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
    """The environment without variables that point to the operator's own service."""
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
    """Stop it with SIGTERM; kill it if that takes too long."""
    child.send(signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while child.ended() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    child.kill()
    child.close()


EVERY_SECONDS = 0.5


@dataclass(slots=True)
class FlowerBacklog:
    """Reads queue lengths from Flower in a background thread for the length of the `with` block."""

    profile: Profile
    lengths: Mapping[str, int] = field(default_factory=dict)  # last seen, by queue
    peak: int = 0  # the most seen in all backlog queues together
    _loop: BackgroundLoop = field(init=False)
    _pool: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(retries=False))

    def __post_init__(self) -> None:
        self._loop = BackgroundLoop(
            "backlog", self._read, every=EVERY_SECONDS, at_once=False, backoff=(EVERY_SECONDS, EVERY_SECONDS)
        )

    @property
    def waiting(self) -> int:
        """Messages last seen in backlog queues."""
        return sum(length for queue, length in self.lengths.items() if queue.startswith(BACKLOG))

    @property
    def released(self) -> int:
        """Messages last seen in key queues: near zero if pacing is exact."""
        return sum(length for queue, length in self.lengths.items() if queue.startswith(KEY))

    def __enter__(self) -> Self:
        self._loop.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.close(10)
        self._pool.clear()

    def look(self, pool: urllib3.PoolManager) -> None:
        """Ask once. Raises urllib3's HTTPError, ValueError."""
        headers = urllib3.make_headers(basic_auth=self.profile.flower_auth)
        answer = pool.request(
            "GET", f"{self.profile.flower_url}/api/queues/length", headers=headers, timeout=5.0
        )
        queues = answer.json()["active_queues"]
        self.lengths = {queue["name"]: int(queue["messages"]) for queue in queues}
        self.peak = max(self.peak, self.waiting)

    def _read(self) -> None:
        try:
            self.look(self._pool)
        except (urllib3.exceptions.HTTPError, ValueError, KeyError):
            return  # try again next time
