"""docs/architecture.md leads: what it names exists, and it knows every room."""

import ast
import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = (CHECKOUT / "docs" / "architecture.md").read_text(encoding="utf-8")
WALK = re.findall(r"^\| [^|]+ \| `([\w./]+)(?::([\w.]+))?` \|$", PAGE, re.MULTILINE)


def names(node: ast.AST, before: str = "") -> set[str]:
    """Functions, classes and methods, as `Class.method`."""
    found = set()
    for child in getattr(node, "body", []):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found |= {before + child.name} | names(child, f"{before}{child.name}.")
    return found


@pytest.mark.parametrize(("file", "name"), WALK)
def test_each_step_of_the_walk_exists(file: str, name: str) -> None:
    path = CHECKOUT / file
    assert path.exists()
    assert not name or name in names(ast.parse(path.read_text(encoding="utf-8")))


def test_the_walk_is_short() -> None:
    assert 25 <= len(WALK) <= 40


def test_every_room_is_on_the_page() -> None:
    rooms = {path.parent.name for path in (CHECKOUT / "app").glob("*/__init__.py")}
    assert sorted(room for room in rooms if f"`{room}/`" not in PAGE) == []


def test_the_files_to_begin_with_exist() -> None:
    rows = re.findall(r"^\| ((?:`\w+/`(?:, )?)+) \| .* \| (.*) \|$", PAGE, re.MULTILINE)
    missing = []
    for rooms, files in rows:
        folders, names_ = re.findall(r"`(\w+)/`", rooms), re.findall(r"`([\w./]+)`", files)
        missing += [
            name for name in names_ if not any((CHECKOUT / "app" / room / name).exists() for room in folders)
        ]
    assert rows
    assert missing == []


def test_no_class_name_stands_for_two_things() -> None:
    found: dict[str, list[str]] = {}
    for path in (CHECKOUT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(path.name)
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}
