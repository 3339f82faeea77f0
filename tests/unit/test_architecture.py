"""Who may import what, where import-linter's words do not reach."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively; say the whole name"
            yield node.module or ""


def _inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_the_domain_stands_on_the_standard_library_alone() -> None:
    for file in (ROOT / "app" / "domain").rglob("*.py"):
        for name in _imported(file):
            stdlib = name.partition(".")[0] in sys.stdlib_module_names
            assert stdlib or _inside(name, "app.domain"), f"{file.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("package", ["app", "workers"])
def test_the_simulator_shares_nothing_of_ours_but_settings(package: str) -> None:
    for file in (ROOT / "app" / "simulator").rglob("*.py"):
        for name in _imported(file):
            ours = _inside(name, package)
            allowed = _inside(name, "app.simulator") or _inside(name, "app.settings")
            assert allowed or not ours, f"{file.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("module", ["time", "socket", "threading", "subprocess", "os"])
def test_time_and_the_outside_reach_the_domain_as_arguments(module: str) -> None:
    """Identifiers are the exception: a new one is made of chance, and counted within the process."""
    for file in (ROOT / "app" / "domain").rglob("*.py"):
        if file.name != "task.py":
            assert module not in set(_imported(file)), f"{file.relative_to(ROOT)} imports {module}"
