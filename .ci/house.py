"""How large the code is: modules and lines by room, the longest functions, and the files on the main path.

    python .ci/house.py             counts alone (a second)
    python .ci/house.py --path      the main path as well: one real task through `penstock up --simulate` (a minute)

The main path is the set of our files in which something happens because of one task, from POST /v1/tasks to its
delivered callback. It is measured: every process notes each function of ours when it runs for the first time, with
the files of all callers on the stack. What ran for the first time between the request and the callback counts, and so
do the files from which it was called. The service has stood idle for a while before, so that its periodic chores have
had their first time already.
"""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IDLE_SECONDS = 20.0
LONGEST = 10

# Put into every process by the name under which Python imports it at start.
RECORDER = """
import os, sys, threading, time
root, folder = os.environ["HOUSE_ROOT"] + os.sep, os.environ["HOUSE_FOLDER"]
ours = tuple(root + name + os.sep for name in ("app", "workers"))
seen = set()

def note(frame, event, argument):
    if event != "call":
        return
    code = frame.f_code
    if code in seen:
        return
    seen.add(code)
    if not code.co_filename.startswith(ours) or code.co_name == "<module>":
        return
    at, files = time.time(), {}
    while frame is not None:
        if frame.f_code.co_filename.startswith(ours) and frame.f_code.co_name != "<module>":
            files[frame.f_code.co_filename[len(root):]] = None
        frame = frame.f_back
    with open(f"{folder}/{os.getpid()}", "a") as page:
        page.write(f"{at} {' '.join(files)}\\n")

threading.setprofile(note)
sys.setprofile(note)
"""


def modules() -> Iterator[tuple[str, Path]]:
    for top in ("app", "simulator", "workers"):
        for file in sorted((ROOT / top).rglob("*.py")):
            parts = file.relative_to(ROOT).parts
            yield ("/".join(parts[:2]) if top == "app" and len(parts) > 2 else top), file


def counts() -> None:
    files, lines, functions = Counter[str](), Counter[str](), []
    for room, file in modules():
        text = file.read_text(encoding="utf-8")
        files[room] += 1
        lines[room] += text.count("\n")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                functions.append((size, f"{file.relative_to(ROOT)}:{node.lineno} {node.name}"))
    for room in sorted(files):
        print(f"{room:20} {files[room]:5} modules {lines[room]:7} lines")
    inside = [room for room in files if room.startswith("app")]
    print(
        f"{'app in all':20} {sum(files[r] for r in inside):5} modules {sum(lines[r] for r in inside):7} lines"
    )
    print(f"\nlongest functions (of {len(functions)}):")
    for size, name in sorted(functions, reverse=True)[:LONGEST]:
        print(f"{size:5}  {name}")


class Receiver(ThreadingHTTPServer):
    """Takes one callback."""

    def __init__(self) -> None:
        self.arrived = threading.Event()
        arrived = self.arrived

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.send_response(204)
                self.end_headers()
                arrived.set()

            def log_message(self, *args: object) -> None:
                """Silent."""

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


def call(url: str, key: str, body: dict[str, object] | None = None) -> None:
    data = json.dumps(body).encode() if body is not None else None
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=10):  # noqa: S310 - loopback
        pass


def ready(data: Path, process: subprocess.Popen[bytes]) -> dict[str, str]:
    """The local profile, once the service answers."""
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        profile = data / "profile.json"
        if profile.exists():
            known: dict[str, str] = json.loads(profile.read_text())
            try:
                call(f"{known['url']}/readyz", "")
                return known
            except OSError:
                pass
        time.sleep(0.5)
    raise SystemExit("`penstock up` did not become ready")


def main_path() -> None:
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        (home / "sitecustomize.py").write_text(RECORDER)
        (notes := home / "notes").mkdir()
        environ = {
            **os.environ,
            "HOUSE_ROOT": str(ROOT),
            "HOUSE_FOLDER": str(notes),
            "PYTHONPATH": os.pathsep.join([str(home), str(ROOT)]),
        }
        preset = ROOT / "app" / "cli" / "presets" / "demo.toml"  # lets callbacks reach this machine
        command = [sys.executable, "-P", "-m", "app.cli", "up", "--simulate", "--config", str(preset)]
        command += ["--data", str(home / "data")]
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(command, env=environ, cwd=home, stdout=log, stderr=log)
        receiver = Receiver()
        try:
            known = ready(home / "data", process)
            time.sleep(IDLE_SECONDS)
            began = time.time()
            call(
                f"{known['url']}/v1/tasks",
                known["api_key"],
                {"prompt": "Hello", "callback_url": receiver.url},
            )
            if not receiver.arrived.wait(60):
                raise SystemExit("no callback came within 60 s")
            ended = time.time() + 1
            time.sleep(2)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        files: set[str] = set()
        for note in notes.iterdir():
            for line in note.read_text().splitlines():
                at, *names = line.split()
                if began <= float(at) <= ended:
                    files.update(names)
    print(f"\nmain path: {len(files)} files")
    for name in sorted(files):
        print(f"       {name}")


if __name__ == "__main__":
    counts()
    if "--path" in sys.argv:
        main_path()
