"""Runs benchmarks by name, one after the other: `make bench`, `make bench-NAME`. A whole run writes the page.

Benchmarks are the files bench_NAME.py here, found by their names. Each is a process of its own; what it printed is
kept for those that keep no record themselves.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.frame import FOLDER, RESULTS, Record
from benchmarks.page import write_page

# In the order of the page; others follow by name.
ORDER = ("drain", "learned", "throughput", "latency", "intake", "flight", "dispatcher", "api", "fairness")


def benchmarks() -> dict[str, Path]:
    """Every benchmark's file by its name, in order."""
    found = {path.stem.removeprefix("bench_"): path for path in FOLDER.glob("bench_*.py")}
    names = [name for name in ORDER if name in found] + sorted(set(found) - set(ORDER))
    return {name: found[name] for name in names}


def first_line(path: Path) -> str:
    """What a benchmark says it measures, without importing it."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def run(name: str, path: Path, quick: bool) -> bool:
    """Run one to its end, passing on what it prints; whether it ended well."""
    print(f"\n== {name}: {first_line(path)}", flush=True)
    began, kept = time.time(), RESULTS / f"{name}.json"
    takes_quick = "quick" in path.read_text(encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        f"benchmarks.{path.stem}",
        *(["--quick"] if quick and takes_quick else []),
    ]
    process = subprocess.Popen(command, cwd=FOLDER.parent, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    code = process.wait()
    if not kept.exists() or kept.stat().st_mtime < began:
        record = Record(name, first_line(path), quick and takes_quick, printed="".join(lines))
        record.seconds = time.time() - began
        record.save()
    print(f"== {name}: {time.time() - began:.0f} s{'' if code == 0 else f', ended with {code}'}", flush=True)
    return code == 0


def main() -> int:
    """Run those that are named, or all."""
    known = benchmarks()
    listed = "\n".join(f"  {name:<12} {first_line(path)}" for name, path in known.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=__doc__,
        epilog=f"benchmarks:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which ones; all unless named")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and stop")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether they run, not how fast")
    parser.add_argument("--page", action="store_true", help="only write the page from what is kept")
    told = parser.parse_args()
    if told.list:
        print(listed)
        return 0
    if unknown := [name for name in told.names if name not in known]:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are: {', '.join(known)}")
    names = [] if told.page else told.names or list(known)
    failed = [name for name in names if not run(name, known[name], told.quick)]
    if not told.names:
        write_page(list(known))
    if failed:
        print(f"ended badly, or missed what they ask of themselves: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
