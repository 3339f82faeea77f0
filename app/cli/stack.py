"""What `penstock up` starts: the components of one machine, their order, free ports and readiness probes."""

from __future__ import annotations

import errno
import http.client
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from app.cli.failure import CommandFailure, Exit
from app.cli.supervisor.decisions import Component

Probe = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Stack:
    """What to run. A port of None: that part is external or not wanted."""

    host: str
    port: int
    flower_port: int
    workers: int
    data: Path
    drain_seconds: float  # how long a worker gives running calls after SIGTERM
    redis_port: int | None = None
    redis_folder: Path | None = None
    simulator_port: int | None = None
    simulator_file: Path | None = None
    secrets: frozenset[str] = (
        frozenset()
    )  # environment variables that Redis, Flower and the simulator do not get

    @property
    def reachable_host(self) -> str:
        """The address at which this machine reaches `host`."""
        local = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104  # compared with, never bound  # nosec B104
        return f"[{local}]" if ":" in local and not local.startswith("[") else local

    @property
    def url(self) -> str:
        """The API's base URL."""
        return f"http://{self.reachable_host}:{self.port}"

    @property
    def flower_url(self) -> str:
        """Flower's URL, always on loopback."""
        return f"http://127.0.0.1:{self.flower_port}"


def components(stack: Stack, answers: Callable[[str], Probe], leads: Probe) -> list[Component]:
    """List all components. `answers` makes a probe for a URL; `leads` returns whether a dispatcher is leading.

    Redis, database and upstream come first, then the workers; Flower starts when a worker can report its queues.
    """
    found = [Component("database", _penstock("db", "upgrade"), once=True)]
    ground = ["database"]
    if stack.redis_port is not None:
        found.append(_redis(stack))
        ground.append("redis")
    found += [_api(stack, ground, answers), _dispatcher(ground, leads)]
    found += _simulator(stack, answers)
    upstream = ["upstream"] if stack.simulator_port is not None else []
    names = [f"worker-{number}" for number in range(1, stack.workers + 1)]
    found += [_worker(name, [*ground, *upstream], stack.drain_seconds) for name in names]
    found += [_callback_worker(ground), _flower(stack, names[0], answers)]
    return found


def _penstock(*arguments: str) -> tuple[str, ...]:
    """-P: do not import modules from the user's current folder."""
    return (sys.executable, "-P", "-m", "app.cli", *arguments)


def _redis(stack: Stack) -> Component:
    folder = stack.redis_folder or stack.data / "redis"
    command = _penstock("redis", "--data", str(folder), "--port", str(stack.redis_port))
    return Component("redis", command, hidden=stack.secrets)


def _api(stack: Stack, ground: list[str], answers: Callable[[str], Probe]) -> Component:
    return Component(
        "api",
        _penstock("api", "--host", stack.host, "--port", str(stack.port)),
        after=tuple(ground),
        probe=answers(f"{stack.url}/healthz"),
        renewed=True,
        stop_seconds=20,
    )


def _dispatcher(ground: list[str], leads: Probe) -> Component:
    return Component("dispatcher", _penstock("dispatcher"), after=tuple(ground), probe=leads)


def _worker(name: str, after: list[str], drain_seconds: float) -> Component:
    return Component(
        name,
        _penstock("worker", "--name", name),
        after=tuple(after),
        renewed=True,
        stop_seconds=drain_seconds + 15,
    )


def _callback_worker(ground: list[str]) -> Component:
    command = _penstock("callback-worker", "--name", "callbacks")
    return Component("callbacks", command, after=tuple(ground), renewed=True, stop_seconds=30)


def _flower(stack: Stack, worker: str, answers: Callable[[str], Probe]) -> Component:
    return Component(
        "flower",
        _penstock("flower", "--port", str(stack.flower_port)),
        after=(worker,),
        probe=answers(f"{stack.flower_url}/healthcheck"),
        hidden=stack.secrets,
    )


def _simulator(stack: Stack, answers: Callable[[str], Probe]) -> list[Component]:
    if stack.simulator_port is None:
        return []
    port = str(stack.simulator_port)
    command = _penstock("simulate-upstream", "--port", port, "--config", str(stack.simulator_file))
    probe = answers(f"http://127.0.0.1:{port}/stats")
    return [Component("upstream", command, probe=probe, hidden=stack.secrets)]


TRIES = 50


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now. Raises CommandFailure if the address is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise CommandFailure(f"cannot listen on {host}: {error.strerror}", code=Exit.USAGE) from error
    return True


def choose_port(host: str, port: int, *, option: str, explicit: bool, taken: tuple[int, ...] = ()) -> int:
    """Return `port` if free, else the next free one, unless it was given by `option`. Port 0: any.

    Raises CommandFailure.
    """
    if port == 0:
        return any_free_port(host)
    if explicit and (port in taken or not port_is_free(host, port)):
        raise CommandFailure(f"port {port} is in use", f"Stop what uses it, or choose another with {option}.")
    free = (
        number for number in range(port, port + TRIES) if number not in taken and port_is_free(host, number)
    )
    found = next(free, None)
    if found is None:
        raise CommandFailure(
            f"ports {port} to {port + TRIES - 1} are all in use", f"Choose a free one with {option}."
        )
    return found


def any_free_port(host: str) -> int:
    """Return a port that was free a moment ago."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


SECONDS = 1.0
# Never use a proxy for this machine.
_opener = build_opener(ProxyHandler({}))


def http_probe(url: str) -> Callable[[], bool]:
    """Make a probe: whether `url` answers 200 within a second."""

    def ask() -> bool:
        try:
            with _opener.open(url, timeout=SECONDS) as response:
                return bool(response.status == 200)
        except (URLError, OSError, http.client.HTTPException):
            return False

    return ask


def leader_probe(redis_url: str) -> Callable[[], bool]:
    """Make a probe: whether a dispatcher leads and has opened pacing for the current Redis."""
    import redis

    client = redis.Redis.from_url(
        redis_url, socket_timeout=SECONDS, socket_connect_timeout=SECONDS, decode_responses=True
    )

    def ask() -> bool:
        try:
            return bool(client.hget("penstock:gate", "run_id") == client.info("server")["run_id"])
        except redis.RedisError:
            return False

    return ask


def require_redis(redis_url: str) -> None:
    """Require a configured Redis at start; later it may come and go. Raises CommandFailure."""
    import redis

    try:
        with redis.Redis.from_url(redis_url, socket_connect_timeout=5, socket_timeout=5) as client:
            client.ping()
    except redis.RedisError as error:
        hint = "Start it, correct REDIS_URL, or unset it to use the embedded Redis."
        raise CommandFailure(
            f"no Redis is ready at REDIS_URL ({type(error).__name__})", hint, Exit.UNREACHABLE
        ) from None
