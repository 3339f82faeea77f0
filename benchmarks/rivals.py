"""The peers' processes, run from an environment of their own that is built on first use: benchmarks/.peers-venv."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3

from app.platform.embedded_redis import free_port
from benchmarks.frame import FOLDER

ENVIRONMENT = FOLDER / ".peers-venv"
PEERS = FOLDER / "peers"
MODEL = "deepseek-flash"


def program(name: str) -> str:
    """A program of the peers' environment, which is built when it is not there, or its pins have changed."""
    pins, mark = (PEERS / "requirements.txt").read_text(encoding="utf-8"), ENVIRONMENT / ".ready"
    if not mark.exists() or mark.read_text(encoding="utf-8") != pins:
        print("building the peers' environment (once)", flush=True)
        python = str(ENVIRONMENT / "bin" / "python")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
        install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python]
        subprocess.run([*install, "--requirement", str(PEERS / "requirements.txt")], check=True)
        mark.write_text(pins, encoding="utf-8")
    return str(ENVIRONMENT / "bin" / name)


@dataclass
class Peer:
    """Celery workers of one kind, and what drives them."""

    kind: str  # the module in peers/
    environment: Mapping[str, str]
    folder: Path
    workers: int = 2
    threads: int = 100
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        """Start the workers and wait until they answer."""
        command = [program("celery"), "-A", self.kind, "worker", "-P", "threads", "-c", str(self.threads)]
        for number in range(self.workers):
            with (self.folder / f"{self.kind}-{number}.log").open("wb") as log:
                started = subprocess.Popen(
                    [*command, "-n", f"{self.kind}{number}@%h", "--without-gossip", "--without-mingle"],
                    cwd=PEERS,
                    env={**os.environ, **self.environment, "PEER_THREADS": str(self.threads)},
                    stdout=log,
                    stderr=log,
                )
            self.processes.append(started)

    def drive(self, tasks: int, warm: int = 100) -> dict[str, Any]:
        """Publish so many tasks and wait for the last; what drive.py found."""
        return _told([program("python"), "drive.py", self.kind, str(tasks), str(warm)], self.environment)

    @property
    def pids(self) -> dict[str, int]:
        """Its workers."""
        return {f"{self.kind}-{n}": process.pid for n, process in enumerate(self.processes)}

    def stop(self) -> None:
        """End the workers."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def celery_peer(
    kind: str,
    folder: Path,
    *,
    redis: str,
    upstream: str,
    keys: list[str],
    database: str = "",
    workers: int = 2,
) -> Iterator[Peer]:
    """Celery workers of a kind, running."""
    environment = {
        "PEER_REDIS": redis,
        "PEER_UPSTREAM": upstream,
        "PEER_KEYS": ",".join(keys),
        "PEER_MODEL": MODEL,
        "PEER_DATABASE": database,
    }
    peer = Peer(kind, environment, folder, workers)
    peer.start()
    try:
        yield peer
    finally:
        peer.stop()


def router(tasks: int, *, upstream: str, limits: Mapping[str, tuple[float, int]]) -> dict[str, Any]:
    """LiteLLM's Router in a process of its own; `limits` by secret: requests per minute, calls at once."""
    told = ",".join(f"{key}={rpm}:{parallel}" for key, (rpm, parallel) in limits.items())
    environment = {"PEER_UPSTREAM": upstream, "PEER_LIMITS": told, "PEER_MODEL": MODEL}
    return _told([program("python"), "router.py", str(tasks)], environment)


@contextmanager
def proxy(folder: Path, upstream: str, key: str) -> Iterator[tuple[str, str]]:
    """LiteLLM's proxy before one upstream, as `litellm --config` starts it; gives its URL and its master key."""
    config = folder / "litellm.yaml"
    config.write_text(
        f"model_list:\n  - model_name: {MODEL}\n    litellm_params:\n      model: openai/{MODEL}\n"
        f"      api_base: {upstream}\n      api_key: {key}\n",
        encoding="utf-8",
    )
    port = free_port()
    command = [program("litellm"), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
    master = f"sk-{secrets.token_hex(32)}"
    environment = {
        **os.environ,
        "LITELLM_MASTER_KEY": master,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
    }
    with (folder / "litellm.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health/liveliness", process, folder / "litellm.log")
        yield f"http://127.0.0.1:{port}", master
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 90
    while time.monotonic() < until and process.poll() is None:
        try:
            if urllib3.request("GET", url, retries=False, timeout=2).status == 200:
                return
        except urllib3.exceptions.HTTPError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"{url} does not answer:\n{log.read_text(errors='replace')[-2000:]}")


def _told(command: list[str], environment: Mapping[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        command, cwd=PEERS, env={**os.environ, **environment}, capture_output=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
