"""A running `penstock up --simulate`."""

import json
from pathlib import Path
from typing import Any, Self

from app.cli.profile import Profile, load
from tests.cli.running import Running, http, penstock
from tests.ports import kept_port

CONFIGURATION = """
default_model = "deepseek-flash"
[[upstream]]
name = "deepseek"
base_url = "https://api.deepseek.com/v1"
[[key]]
name = "main"
upstream = "deepseek"
secret = "env:PLANTED_SECRET"
[[quota]]
key = "main"
rpm = 6000
[[model]]
name = "deepseek-flash"
tiers = [["main"]]
[[key]]
name = "slow"
upstream = "deepseek"
secret = "env:PLANTED_SECRET"
[[quota]]
key = "slow"
rpm = 30
[[model]]
name = "slow/model.v1"
tiers = [["slow:deepseek-flash"]]
[callbacks]
allow_networks = ["127.0.0.0/8"]
ports = ["443", "1024-65535"]
"""
READY = "Press Ctrl-C to stop."


class Up:
    """A running `penstock up --simulate` in a folder of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        (folder / "penstock.toml").write_text(CONFIGURATION)
        ports = ("--port", str(kept_port()), "--flower-port", str(kept_port()))
        self.running = Running("up", "--simulate", "--latency", "0.05", *ports, *options, cwd=folder)

    def __enter__(self) -> Self:
        self.running.until(READY)
        return self

    def __exit__(self, *exc: object) -> None:
        self.running.__exit__(*exc)

    @property
    def said(self) -> str:
        """What it has printed."""
        return self.running.said

    @property
    def profile(self) -> Profile:
        """What the other commands read."""
        return load(self.folder / ".penstock")

    def add_client(self, name: str) -> dict[str, str]:
        """A new client: `api_key` and `callback_secret`."""
        made = penstock("clients", "add", name, "--json", cwd=self.folder)
        assert made.returncode == 0, made.stderr
        return dict(json.loads(made.stdout))

    def call(self, method: str, path: str, body: Any = None, key: str = "") -> dict[str, Any]:
        """One call to the API, with the administrator's key unless another is given."""
        headers = {
            "Authorization": f"Bearer {key or self.profile.api_key}",
            "Content-Type": "application/json",
        }
        data = None if body is None else json.dumps(body)
        answer = http(method, self.profile.url + path, headers=headers, body=data)
        assert answer is not None
        assert answer.status < 300, answer.data
        return dict(answer.json())

    def try_submit(self, body: Any) -> dict[str, Any] | None:
        """Submit a task; None when that is refused, or nobody answers now."""
        try:
            return self.call("POST", "/v1/tasks", body)
        except AssertionError:
            return None
