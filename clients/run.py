"""`make clients`: install clients into environments of their own, and run them against a simulated service."""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
PATIENCE = 400.0  # seconds for a service to come up
PYTHON = {  # script: what its environment holds
    "openai_python": ["openai==3.57.0"],
    "langchain_chat": ["langchain-openai==1.7.4"],
    "llamaindex_chat": ["llama-index-llms-openai-like==0.8.1"],
    "litellm_chat": ["litellm==1.110.2"],
    "litellm_proxy": ["litellm[proxy]==1.89.7"],
}
QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # fetches no price list
NODE = ("openai_node", "ai_sdk")
MODEL = "deepseek-flash"


def install(folder: Path, name: str) -> Path:
    """The interpreter of a script's environment, made on first use."""
    python = folder / name / "bin" / "python"
    mark = folder / name / ".installed"
    wanted = "\n".join(PYTHON[name])
    if not mark.exists() or mark.read_text() != wanted:
        uv = [str(BIN / "uv")]
        subprocess.run(
            [*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder / name)], check=True
        )
        subprocess.run([*uv, "pip", "install", "--quiet", "--python", str(python), *PYTHON[name]], check=True)
        mark.write_text(wanted)
    return python


def install_node(folder: Path) -> Path:
    """A folder with the scripts for Node and their packages."""
    place = folder / "node"
    shutil.copytree(HERE / "node", place, dirs_exist_ok=True)
    quiet = ["--silent", "--no-audit", "--no-fund"]
    subprocess.run(["npm", "install", *quiet], cwd=place, check=True)
    return place


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def process(command: list[str], log: Path, ready: str, environment: Mapping[str, str]) -> Iterator[None]:
    """A server, until the end of the block; begun once `ready` answers."""
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env={**os.environ, **QUIET, **environment},
            start_new_session=True,
        )
        try:
            wait_for(ready, server, log)
            yield
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    raise SystemExit(f"{url} did not answer:\n{log.read_text(errors='replace')[-2000:]}")


@contextmanager
def service(folder: Path, name: str, *options: str, **environment: str) -> Iterator[dict[str, str]]:
    """`penstock up`; yields what a script needs to reach it."""
    port, key = free_port(), "clients-" + secrets.token_hex(16)
    data = folder / "data" / name
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    command = [str(BIN / "penstock"), "up", *options, "--port", str(port), "--flower-port", str(free_port())]
    environment["PENSTOCK_ADMIN_KEY"] = key
    url = f"http://127.0.0.1:{port}"
    with process([*command, "--data", str(data)], data.with_suffix(".log"), f"{url}/readyz", environment):
        yield {"BASE_URL": f"{url}/v1", "API_KEY": key, "MODEL": MODEL}


PROXY_CONFIG = """\
model_list:
  - model_name: {model}
    litellm_params: {{model: openai/{model}, api_base: {url}, api_key: {key}}}
general_settings: {{master_key: sk-proxy}}
"""
SECOND_CONFIG = """\
[[upstream]]
name = "proxy"
base_url = "{url}/v1"

[[key]]
name = "proxy"
upstream = "proxy"
secret = "env:PROXY_KEY"

[[model]]
name = "through-proxy"
tiers = [["proxy:{model}"]]

[[model]]
name = "not-there"
tiers = [["proxy:nobody"]]

[retry.default]
attempts = 2
base = 0.1
cap = 0.2
"""


@contextmanager
def behind_proxy(folder: Path, python: Path, first: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """A second service whose upstream is LiteLLM's proxy, whose upstream is the first."""
    port, config, second = free_port(), folder / "proxy.yaml", folder / "second.toml"
    config.write_text(PROXY_CONFIG.format(model=MODEL, url=first["BASE_URL"], key=first["API_KEY"]))
    url = f"http://127.0.0.1:{port}"
    second.write_text(SECOND_CONFIG.format(url=url, model=MODEL))
    command = [
        str(python.parent / "litellm"),
        "--config",
        str(config),
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
    ]
    with (
        process(command, folder / "proxy.log", f"{url}/health/liveliness", {}),
        service(folder, "second", "--config", str(second), PROXY_KEY="sk-proxy") as reached,
    ):
        yield reached


def run_script(command: list[str], cwd: Path, reached: Mapping[str, str]) -> tuple[int, int]:
    """How many checks of a script passed and failed."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **QUIET, **reached},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(done.stdout, end="", flush=True)
    lines = done.stdout.splitlines()
    passed, failed = (sum(line.startswith(word) for line in lines) for word in ("passed ", "FAILED "))
    return passed, failed + (done.returncode != 0 and not failed)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--folder", type=Path, default=HERE.parent / ".clients")
    arguments.add_argument("--only", default="", help="a part of the names of the scripts to run")
    given = arguments.parse_args()
    given.folder.mkdir(exist_ok=True)
    chosen = [name for name in (*PYTHON, *NODE) if given.only in name]
    passed = failed = 0
    with service(given.folder, "first", "--simulate", "--latency", "0.05") as first:
        for name in chosen:
            print(f"--- {name}", flush=True)
            try:
                more = run_one(given.folder, name, first)
            except (OSError, subprocess.CalledProcessError, SystemExit) as error:
                print(f"FAILED {name}: {error}")
                more = (0, 1)
            passed, failed = passed + more[0], failed + more[1]
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def run_one(folder: Path, name: str, first: Mapping[str, str]) -> tuple[int, int]:
    if name in NODE:
        place = install_node(folder)
        return run_script(["node", str(place / f"{name}.mjs")], place, first)
    command = [str(install(folder, name)), str(HERE / f"{name}.py")]
    if name != "litellm_proxy":
        return run_script(command, HERE, first)
    with behind_proxy(folder, Path(command[0]), first) as second:
        return run_script(command, HERE, second)


if __name__ == "__main__":
    sys.exit(main())
