"""Whatever two threads share says whose it is, and what a lock guards is changed under it alone."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = {"Lock", "RLock", "Condition"}
SHARING = LOCKS | {"BackgroundLoop", "Thread", "SimpleQueue", "Queue"}
CHANGES = {
    "add",
    "append",
    "appendleft",
    "clear",
    "discard",
    "extend",
    "insert",
    "move_to_end",
    "pop",
    "popitem",
}
CHANGES |= {"popleft", "remove", "setdefault", "update"}
OWNERS = (
    "thread",
    "lock",
    "guard",
)  # one of these words stands in the docstring that says who owns the fields
# Changed without the lock on purpose.
EXCEPTIONS = {
    ("HeldSecrets", "_refused"),  # `set.add` is atomic, and the lock is held while a program prints a secret
}


class Shared(NamedTuple):
    """A class that makes locks or threads."""

    file: Path
    node: ast.ClassDef

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.node.name}"

    def makes(self, kinds: set[str]) -> set[str]:
        """The fields that hold something of these kinds; also `field(default_factory=...)`."""
        found = set()
        for node in ast.walk(self.node):
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                names = {n.id if isinstance(n, ast.Name) else n.attr for n in _names(node.value)}
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                if names & kinds and (name := _field(target) or getattr(target, "id", None)):
                    found.add(name)
        return found


def _names(node: ast.expr) -> Iterator[ast.Name | ast.Attribute]:
    for call in ast.walk(node):
        if isinstance(call, ast.Call):
            made = [call.func, *(k.value for k in call.keywords if k.arg == "default_factory")]
            yield from (one for one in made if isinstance(one, ast.Name | ast.Attribute))


def _field(node: ast.AST) -> str | None:
    while isinstance(node, ast.Subscript):
        node = node.value
    own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    return node.attr if own and isinstance(node, ast.Attribute) else None


def _changed(node: ast.AST) -> Iterator[str]:
    targets: list[ast.AST] = []
    if isinstance(node, ast.Assign | ast.Delete):
        targets = [*node.targets]
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        targets = [node.target]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES:
        targets = [node.func.value]
    for target in targets:
        for part in target.elts if isinstance(target, ast.Tuple) else [target]:
            if name := _field(part):
                yield name


def _steps(node: ast.AST, locks: set[str], held: bool) -> Iterator[tuple[str, str, bool]]:
    """("changes", field, held) and ("calls", method, held), in one method."""
    for child in ast.iter_child_nodes(node):
        within = held
        if isinstance(child, ast.With) and any(_field(item.context_expr) in locks for item in child.items):
            within = True
        if isinstance(child, ast.FunctionDef | ast.Lambda):
            within = False  # it runs later
        yield from (("changes", name, within) for name in _changed(child))
        if isinstance(child, ast.Call) and (name := _field(child.func)):
            yield "calls", name, within
        yield from _steps(child, locks, within)


def unguarded(shared: Shared) -> set[str]:
    """Fields that are changed under a lock in one place and without it in another."""
    locks = shared.makes(LOCKS)
    methods = [node for node in shared.node.body if isinstance(node, ast.FunctionDef)]
    steps = {m.name: list(_steps(m, locks, False)) for m in methods if not m.name.startswith("__")}
    calls: dict[str, list[tuple[str, bool]]] = defaultdict(list)
    for caller, found in steps.items():
        for kind, name, held in found:
            if kind == "calls" and name.startswith("_"):
                calls[name].append((caller, held))
    under: set[str] = set()  # private methods that are only called with the lock held
    while more := {
        name
        for name in steps.keys() & calls.keys() - under
        if all(held or caller in under for caller, held in calls[name])
    }:
        under |= more
    places: dict[str, set[bool]] = defaultdict(set)
    for method, found in steps.items():
        for kind, name, held in found:
            if kind == "changes":
                places[name].add(held or method in under)
    return {name for name, kinds in places.items() if len(kinds) == 2}


def shared_classes() -> Iterator[Shared]:
    for file in sorted([*(ROOT / "app").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and Shared(file, node).makes(SHARING):
                yield Shared(file, node)


SHARED = list(shared_classes())


@pytest.mark.parametrize("shared", SHARED, ids=str)
def test_what_makes_locks_or_threads_says_which_thread_owns_its_fields(shared: Shared) -> None:
    said = (ast.get_docstring(shared.node) or "").lower()
    assert any(word in said for word in OWNERS), (
        "say in the docstring which threads use it, and what guards its fields"
    )


@pytest.mark.parametrize("shared", [one for one in SHARED if one.makes(LOCKS)], ids=str)
def test_what_a_lock_guards_is_changed_under_it_alone(shared: Shared) -> None:
    found = {name for name in unguarded(shared) if (shared.node.name, name) not in EXCEPTIONS}
    assert found == set(), "changed with the lock in one place and without it in another"


def test_the_check_finds_a_change_without_the_lock() -> None:
    text = """
class Book:
    def __init__(self):
        self._lock = Lock()
        self._known = {}
        self._count = 0
    def keep(self, name):
        with self._lock:
            self._known[name] = 1
            self._grow()
    def forget(self, name):
        self._known.pop(name)
    def _grow(self):
        self._count += 1
"""
    node = ast.parse(text).body[0]
    assert isinstance(node, ast.ClassDef)
    assert unguarded(Shared(ROOT / "book.py", node)) == {"_known"}
