"""What the leader's threads share says in its docstring which thread may call what; a running leader keeps to it."""

from __future__ import annotations

import inspect
import pkgutil
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import wraps
from importlib import import_module

import pytest

import app.dispatching
from app.composition.container import Container
from app.dispatching.key_supervisor import KeySupervisor
from app.dispatching.publish_wait_reasons import PublishWaitReasons
from app.dispatching.tick_handoff import ClientShares, PersistEstimates, RequeueTasks, TraceReleases
from tests.dispatching.test_leaders_threads import Running, parts, settled

__all__ = ["parts"]  # a fixture

SHARED: tuple[type, ...] = (
    ClientShares,
    KeySupervisor,
    PersistEstimates,
    PublishWaitReasons,
    RequeueTasks,
    TraceReleases,
)


def declared(shared: type) -> dict[str, set[str]]:
    """The threads that may call each method, as the line "Threads: `method`: thread, thread; ..." says."""
    line = re.search(r"Threads: (.*?)\.$", inspect.getdoc(shared) or "", re.DOTALL | re.MULTILINE)
    assert line is not None, f"{shared.__name__}: its docstring does not say which thread may call what"
    found: dict[str, set[str]] = {}
    for clause in " ".join(line[1].split()).split("; "):
        *methods, threads = clause.split(": ")
        found |= {name: set(threads.split(", ")) for name in re.findall(r"`(\w+)`", ":".join(methods))}
    return found


def public_methods(shared: type) -> set[str]:
    return {name for name, member in vars(shared).items() if inspect.isfunction(member) and name[0] != "_"}


def classes_with_locks() -> Iterator[type]:
    for module in pkgutil.iter_modules(app.dispatching.__path__, "app.dispatching."):
        for _, found in inspect.getmembers(import_module(module.name), inspect.isclass):
            if found.__module__ == module.name and re.search(r"\bLock\b|\bQueue\(", inspect.getsource(found)):
                yield found


@pytest.mark.parametrize("shared", SHARED)
def test_each_shared_object_names_the_threads_of_all_its_methods(shared: type) -> None:
    assert declared(shared).keys() == public_methods(shared)


def test_whatever_has_a_lock_is_shared() -> None:
    assert set(classes_with_locks()) <= set(SHARED)


def test_a_running_leader_calls_each_method_from_the_threads_that_are_named(
    parts: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    callers: dict[tuple[type, str], set[str]] = defaultdict(set)

    def recorded(shared: type, name: str, method: Callable[..., object]) -> Callable[..., object]:
        @wraps(method)
        def call(*args: object, **kwargs: object) -> object:
            callers[shared, name].add(threading.current_thread().name)
            return method(*args, **kwargs)

        return call

    for shared in SHARED:
        for name in public_methods(shared):
            monkeypatch.setattr(shared, name, recorded(shared, name, getattr(shared, name)))
    running = Running(parts)
    running.start()
    settled(lambda: {"healer", "watcher", "tester", "shares", "refeeder"} <= set().union(*callers.values()))
    running.end()
    for (shared, name), threads in callers.items():
        seen = {"tick" if thread == running.name else thread for thread in threads}
        assert seen <= declared(shared)[name], f"{shared.__name__}.{name}"
