"""docs/private-apis.md: parts of libraries that are not their public interface. What we rely on is checked here."""

from __future__ import annotations

import ast
import inspect
import re
import ssl
from pathlib import Path
from typing import Any

import psycopg
import pytest
from celery import Celery, bootsteps, concurrency
from celery.concurrency.thread import TaskPool
from celery.events import EventDispatcher
from celery.worker import control
from celery.worker.consumer import Consumer
from flower.app import Flower
from gunicorn import http, util
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers import gthread
from kombu.asynchronous.hub import Hub
from kombu.transport.redis import Channel
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.values import ValueClass
from redis.connection import AbstractConnection
from sqlalchemy.exc import DBAPIError
from urllib3.connection import HTTPConnection, HTTPSConnection

from app.api.http_worker import GunicornThreadWorker
from app.cli import flower
from app.platform.domain.names import SEPARATOR

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "private-apis.md").read_text("utf-8")
# Modules that a library documents for nobody, or that hold parts which we override.
PRIVATE = (
    "celery.concurrency", "celery.utils", "celery.worker", "flask.globals", "flower", "gunicorn", "kombu.transport",
    "prometheus_client.metrics_core",
    "prometheus_client.mmap_dict", "prometheus_client.multiprocess", "prometheus_client.values", "urllib3.connection",
    "urllib3.util.connection", "vine", "werkzeug.sansio",
)  # fmt: skip
WORKER = (
    "_cap_keepalive", "_keepalive_after", "accept", "finish_request", "handle", "handle_error", "handle_exit",
    "handle_request", "murder_pending", "notify", "on_client_socket_readable",
)  # fmt: skip


def _parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.parametrize("name", WORKER)
def test_gunicorns_worker_still_has_what_ours_overrides(name: str) -> None:
    theirs = getattr(gthread.ThreadWorker, name)
    assert len(_parameters(getattr(GunicornThreadWorker, name))) == len(_parameters(theirs))


@pytest.mark.parametrize(
    "text",
    [
        "self.nr_conns",
        "self.keepalived_conns",
        "self.max_keepalived",
        "self.method_queue.defer(",
        "self.poller",
        "self.worker_connections",
        "self.murder_pending()",
        "conn.data_ready",
        "def enqueue_req(self, conn)",
        "def finish_request(self, conn, fs)",
    ],
)
def test_gunicorns_worker_still_keeps_its_connections_so(text: str) -> None:
    assert text in inspect.getsource(gthread)


def test_gunicorns_connection_is_made_of_the_same_parts() -> None:
    assert _parameters(gthread.TConn) == ["cfg", "sock", "client", "server"]
    assert {"self.parser", "self.data_ready", "self.sock"} <= set(
        re.findall(r"self\.\w+", inspect.getsource(gthread.TConn))
    )


def test_gunicorns_reader_and_response_have_the_parts_that_ours_use() -> None:
    assert {"unread", "take_buffered", "chunk"} <= set(dir(SocketUnreader))
    assert _parameters(http.get_parser)[:3] == ["cfg", "source", "source_addr"]
    assert callable(util.write_nonblock)
    assert callable(util.close_graceful)


def test_celerys_consumer_has_the_parts_that_we_change() -> None:
    assert _parameters(Consumer.ensure_connected) == ["conn"]
    assert {"call_soon", "cancel_task_queue", "add_task_queue"} <= set(dir(Consumer))
    assert {"hub", "event_dispatcher"} <= set(re.findall(r"\b(\w+)\b", inspect.getsource(Consumer)))
    assert issubclass(concurrency.get_implementation("threads"), TaskPool)
    steps = Celery("test", set_as_current=False).steps
    assert isinstance(steps["worker"], set)
    assert isinstance(steps["consumer"], set)
    assert hasattr(bootsteps.StartStopStep, "requires")


def test_celerys_dispatcher_of_events_buffers_as_we_expect() -> None:
    used = set(re.findall(r"self\.(\w+)", inspect.getsource(EventDispatcher)))
    assert {"buffer_limit", "on_send_buffered", "enabled", "flush"} <= used | set(dir(EventDispatcher))
    assert {"call_soon", "call_later"} <= set(dir(Hub))


def test_celerys_remote_commands_can_be_replaced_by_name() -> None:
    assert _parameters(control.active_queues) == ["state"]
    assert _parameters(control.revoke)[:4] == ["state", "task_id", "terminate", "signal"]


def test_kombu_names_its_lists_and_channels_as_we_do() -> None:
    assert Channel.sep == SEPARATOR
    assert Channel.keyprefix_fanout.format(db=3) == "/3."


def test_flower_has_the_parts_that_we_use() -> None:
    assert "update_workers" in dir(Flower)
    assert {"workers", "events", "io_loop"} <= set(re.findall(r"\b(\w+)\b", inspect.getsource(Flower)))
    templates = Path(inspect.getfile(Flower)).parent / "templates"
    assert flower._BAR in (templates / "navbar.html").read_text("utf-8")
    assert flower._TASK in (templates / "task.html").read_text("utf-8")


def test_prometheus_files_are_read_and_written_as_before(tmp_path: Path) -> None:
    written = MmapedDict(str(tmp_path / "counter_1.db"))
    written.write_value("key", 3.0, 0.0)
    written.close()
    read = MmapedDict.read_all_values_from_file(str(tmp_path / "counter_1.db"))
    assert [(key, value) for key, value, *_ in read] == [("key", 3.0)]
    assert ValueClass._multiprocess in (True, False)


def test_psycopg_waits_by_one_method_that_can_be_overridden() -> None:
    assert _parameters(psycopg.Connection.wait)[0] == "gen"
    assert callable(psycopg.pq.PGconn.finish)


def test_urllib3_opens_its_sockets_by_one_method() -> None:
    for kind in (HTTPConnection, HTTPSConnection):
        assert _parameters(kind._new_conn) == []
        assert "self._new_conn()" in inspect.getsource(kind.connect)
    assert HTTPConnection("Example.org.")._dns_host == "Example.org."


def test_tls_sockets_are_of_the_class_that_the_context_names() -> None:
    assert ssl.SSLContext.sslsocket_class is ssl.SSLSocket


def test_redis_packs_commands_by_the_packer_given() -> None:
    assert "command_packer" in _parameters(AbstractConnection.__init__)
    assert "_command_packer.pack(" in inspect.getsource(AbstractConnection)


def test_sqlalchemy_wraps_an_error_of_the_driver_on_request() -> None:
    error = psycopg.OperationalError("gone")
    wrapped = DBAPIError.instance("SELECT 1", None, error, psycopg.Error, connection_invalidated=True)
    assert isinstance(wrapped, DBAPIError)
    assert (wrapped.connection_invalidated, wrapped.orig) == (True, error)


def _imported(file: Path) -> set[str]:
    """The modules that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def test_the_page_names_every_private_module_and_who_imports_it() -> None:
    missing = []
    for file in sorted([*(ROOT / "app").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]):
        name = str(file.relative_to(ROOT))
        for module in sorted(_imported(file)):
            if any(module == one or module.startswith(f"{one}.") for one in PRIVATE):
                rows = [row for row in PAGE.splitlines() if f"`{module}`" in row]
                if not any(f"`{name}`" in row for row in rows):
                    missing.append(f"{name}: {module}")
    assert missing == []


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)
    assert named
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text("utf-8") if test else (ROOT / file).exists()
