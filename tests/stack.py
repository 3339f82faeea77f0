"""A real stack of processes for end-to-end tests, chaos and benchmarks: what an operator would start, by command line.

The servers beneath (Redis, database, simulated upstream) are given by whoever makes the stack.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
import urllib3

from app.cli.supervisor.lifeline import LIFELINE, SUPERVISOR
from tests.ports import kept_port

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 120.0  # seconds for which a condition is waited for: how slow a machine may be, not what is tested


_WITH_CHILDREN = ("api", "up")


class NotInTime(AssertionError):
    """A condition did not come true within its limit."""


def wait_until(
    condition: Callable[[], Any], *, within: float = PATIENCE, what: str = "", every: float = 0.05
) -> Any:
    """Give back the condition's first true value. Raises NotInTime."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(every)
    raise NotInTime(what or f"not within {within} s")


@dataclass(frozen=True, slots=True)
class Key:
    """One upstream key: its account and the limits told of that account."""

    name: str
    account: str = ""
    rpm: float | None = None
    tpm: float | None = None
    concurrency: int | None = None
    burst: float | None = None
    weight: float = 1.0


def configuration(
    base_url: str, keys: Sequence[Key], *, model: str = "deepseek-flash", more: str = ""
) -> str:
    """A penstock.toml: one upstream, one model served by all keys in one tier, quotas per account."""
    return several_models(base_url, {model: keys}, more=more)


def several_models(base_url: str, models: Mapping[str, Sequence[Key]], *, more: str = "") -> str:
    """A penstock.toml: one upstream, and models of the same upstream model, each by its own keys.

    The first is the default. Quotas are told per account, by the first of its keys.
    """
    upstream_model = "deepseek-flash"
    beat = [] if "[worker]" in more else ["[worker]", "beat_seconds = 3", ""]
    lines = [f'default_model = "{next(iter(models))}"', "", *beat, "[[upstream]]", 'name = "sim"']
    lines += [f'base_url = "{base_url}"', ""]
    told: dict[str, Key] = {}
    for key in (key for keys in models.values() for key in keys):
        account = key.account or key.name
        told.setdefault(account, key)
        lines += [
            "[[key]]",
            f'name = "{key.name}"',
            'upstream = "sim"',
            f'secret = "env:KEY_{_env(key.name)}"',
        ]
        lines += [f'account = "{account}"', f"weight = {key.weight}", ""]
    for account, key in told.items():
        figures = {"rpm": key.rpm, "tpm": key.tpm, "concurrency": key.concurrency, "burst": key.burst}
        if any(figure is not None for figure in figures.values()):
            lines += ["[[quota]]", f'account = "{account}"', f'model = "{upstream_model}"']
            lines += [f"{name} = {figure}" for name, figure in figures.items() if figure is not None] + [""]
    for model, keys in models.items():
        names = ", ".join(f'"{key.name}:{upstream_model}"' for key in keys)
        lines += ["[[model]]", f'name = "{model}"', f"tiers = [[{names}]]", ""]
    return "\n".join([*lines, more])


def key_environment(keys: Iterable[Key]) -> dict[str, str]:
    """The secrets that `configuration` refers to: each key's is `sk-<its name>`."""
    return {f"KEY_{_env(key.name)}": f"sk-{key.name}" for key in keys}


def _env(name: str) -> str:
    return name.upper().replace("-", "_")


@dataclass
class Answer:
    """An HTTP answer."""

    status: int
    body: Any
    headers: Mapping[str, str]


@dataclass
class Caller:
    """A client of the API."""

    url: str
    key: str
    pool: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(maxsize=32, retries=False))

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request; JSON in, JSON out."""
        sent = {"authorization": f"Bearer {self.key}", **{k.replace("_", "-"): v for k, v in headers.items()}}
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else orjson.dumps(body)
            sent.setdefault("content-type", "application/json")
        got = self.pool.request(method, self.url + path, body=data, headers=sent, timeout=PATIENCE)
        is_json = got.headers.get("content-type", "").startswith("application/json")
        return Answer(got.status, orjson.loads(got.data) if is_json else got.data, dict(got.headers))

    def submit(self, prompt: str, **fields: Any) -> str:
        """Submit one task; gives back its id."""
        answer = self.call("POST", "/v1/tasks", {"prompt": prompt, **fields})
        assert answer.status == 202, answer
        return str(answer.body["id"])

    def submit_batch(self, prompts: Iterable[str], **fields: Any) -> dict[str, Any]:
        """Submit a batch; gives back its JSON."""
        requests = [{"prompt": prompt} for prompt in prompts]
        answer = self.call("POST", "/v1/batch", {"requests": requests, **fields})
        assert answer.status == 202, answer
        return dict(answer.body)

    def task(self, task_id: str, wait: float | None = None) -> dict[str, Any]:
        """Read a task, waiting up to `wait` seconds for its end."""
        answer = self.call("GET", f"/v1/tasks/{task_id}" + (f"?wait={wait}" if wait else ""))
        assert answer.status == 200, answer
        return dict(answer.body)

    def batch(self, batch_id: str) -> dict[str, Any]:
        """Read a batch."""
        return dict(self.call("GET", f"/v1/batch/{batch_id}").body)

    def finished_batch(self, batch_id: str, within: float = PATIENCE) -> dict[str, Any]:
        """Wait until a batch has come to its end."""

        def ended() -> dict[str, Any] | None:
            seen = self.batch(batch_id)
            return seen if seen.get("status") in ("completed", "failed", "expired", "cancelled") else None

        found: dict[str, Any] = wait_until(ended, within=within, what=f"batch {batch_id}", every=0.1)
        return found


class Pipe:
    """Whoever holds the reading end hears when this process is gone."""

    def __init__(self) -> None:
        self.reading_end, self._writing_end = os.pipe()
        self._open = True

    def close(self) -> None:
        """May be called again."""
        if self._open:
            self._open = False
            os.close(self.reading_end)
            os.close(self._writing_end)


class Stack:
    """Processes by name. Each is started and stopped by the test; whatever is left is killed at the end."""

    def __init__(
        self,
        folder: Path,
        config: str,
        *,
        database_url: str,
        redis_url: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "penstock.toml").write_text(config, encoding="utf-8")
        self.port = kept_port()
        self.admin_key = f"pk_{secrets.token_urlsafe(32)}"
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")},
            "PENSTOCK_CONFIG": str(folder / "penstock.toml"),
            "PENSTOCK_ADMIN_KEY": self.admin_key,
            "PENSTOCK_DATA": str(folder),
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            **(environment or {}),
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._pipe = Pipe()

    @property
    def url(self) -> str:
        """The API's base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin(self) -> Caller:
        """A caller with the administrator's key."""
        return Caller(self.url, self.admin_key)

    def add_client(self, name: str) -> Caller:
        """Add a client on the command line; gives back a caller with its key."""
        made = orjson.loads(self.penstock("clients", "add", name, "--json"))
        return Caller(self.url, made["api_key"])

    def penstock(self, *arguments: str, timeout: float = PATIENCE) -> str:
        """Run a command to its end; gives back what it printed."""
        done = subprocess.run(
            self._command(arguments), env=self.environment, capture_output=True, timeout=timeout, check=False
        )
        assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
        return done.stdout.decode()

    def start(self, name: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a process; its output goes to `<name>.log` in the folder."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                self._command(arguments),
                env={**self.environment, **environment, **self._lifeline()},
                stdout=log,
                stderr=log,
                pass_fds=(self._pipe.reading_end,),
            )
        self.processes[name] = process
        return process

    def start_all(
        self, *, dispatchers: int = 1, workers: int = 1, callbacks: bool = True, apis: int = 1
    ) -> Self:
        """Upgrade the database, start every component, and wait until the API answers and a worker reports."""
        self.penstock("db", "upgrade")
        self.start("api", "api", "--port", str(self.port))
        for number in range(1, apis):
            self.start(f"api-{number + 1}", "api", "--port", str(kept_port()))
        for number in range(dispatchers):
            self.start(f"dispatcher-{number + 1}", "dispatcher")
        for number in range(workers):
            self.start(f"worker-{number + 1}", "worker", "--name", f"worker-{number + 1}")
        if callbacks:
            self.start("callbacks", "callback-worker", "--name", "callbacks")
        self.wait_ready(workers)
        return self

    def wait_ready(self, workers: int = 1) -> None:
        """Wait until the API answers and so many workers report their slots."""
        import redis

        wait_until(self.answers, within=2 * PATIENCE, what=f"API\n{self.logs('api')}")
        with redis.Redis.from_url(self.environment["REDIS_URL"]) as client:
            wait_until(
                lambda: client.hlen("penstock:workers") >= workers and client.hget("penstock:gate", "run_id"),
                within=2 * PATIENCE,
                what=f"workers and a leader\n{self.logs()}",
            )

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Signal a process and wait for its end; gives back the exit code."""
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(PATIENCE)

    def logs(self, *names: str) -> str:
        """The last of what processes printed."""
        files = [self.folder / f"{name}.log" for name in names] or sorted(self.folder.glob("*.log"))
        return "\n".join(
            f"--- {f.name}\n{f.read_text(errors='replace')[-3000:]}" for f in files if f.exists()
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            sys.stderr.write(self.logs() + "\n")
        self.stop()

    def _lifeline(self) -> dict[str, str]:
        """What makes a process die with this one, however that ends."""
        return {LIFELINE: str(self._pipe.reading_end), SUPERVISOR: str(os.getpid())}

    def stop(self) -> None:
        """End everything that still runs: at once, but for what has children of its own, which it ends first."""
        for process in self.processes.values():
            if set(_WITH_CHILDREN) & set(process.args):
                process.terminate()
            else:
                process.kill()
        for process in self.processes.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(PATIENCE)
        self.processes.clear()
        self._pipe.close()

    def answers(self) -> bool:
        try:
            return Caller(self.url, "").call("GET", "/healthz").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    @staticmethod
    def _command(arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-P", "-m", "app.cli", *arguments]


def served_by(stack: Stack) -> set[str]:
    """The keys whose queues the living workers consume."""
    found = stack.admin.call("GET", "/v1/admin/dispatcher").body
    return {key for worker in found["workers"] for key in worker["keys"]}
