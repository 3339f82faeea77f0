"""An endpoint at the edge is called from the edge: by a worker of its region, which has its secret alone."""

from __future__ import annotations

from pathlib import Path

from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from tests.stack import Stack, served_by, wait_until

CONFIG = """\
default_model = "central"
[[upstream]]
name = "home"
base_url = "{url}"
[[upstream]]
name = "edge"
base_url = "{url}"
region = "eu"
bound = true
headers = {{ X-Edge = "env:EDGE_HEADER" }}
[[key]]
name = "home-1"
upstream = "home"
secret = "env:HOME_KEY"
[[key]]
name = "edge-1"
upstream = "edge"
secret = "env:EDGE_KEY"
[[model]]
name = "central"
tiers = [["home-1:deepseek-flash"]]
[[model]]
name = "near"
tiers = [["edge-1:deepseek-flash"]]
"""


def test_what_is_bound_to_a_region_waits_for_a_worker_there_and_is_called_by_it_alone(
    tmp_path: Path, sqlite_url: str, redis_url: str
) -> None:
    simulated = SimulatorConfig(keys={"sk-home": "home", "sk-edge": "edge"})
    with SimulatorProcess(simulated) as upstream:
        config = CONFIG.format(url=upstream.base_url)
        with Stack(tmp_path / "stack", config, database_url=sqlite_url, redis_url=redis_url) as stack:
            stack.penstock("db", "upgrade")
            stack.start("api", "api", "--port", str(stack.port))
            stack.start("dispatcher", "dispatcher")
            stack.start("home", "worker", "--name", "home", HOME_KEY="sk-home")
            stack.wait_ready()
            near = stack.admin.submit("hello", model="near")
            central = stack.admin.submit("hello")
            wait_until(lambda: stack.admin.task(central, wait=5)["status"] == "succeeded")
            assert stack.admin.task(near)["status"] == "queued"
            secrets = {"EDGE_KEY": "sk-edge", "EDGE_HEADER": "only-here"}
            stack.start("edge", "worker", "--name", "edge", "--region", "eu", **secrets)
            wait_until(lambda: stack.admin.task(near)["status"] == "succeeded")
            assert [call["key"] for call in upstream.log()] == ["sk-home", "sk-edge"]

            (stack.folder / "penstock.toml").write_text(config.replace("edge-1", "edge-2"))
            stack.penstock("reload")
            wait_until(lambda: served_by(stack) == {"home-1", "edge-2"}, what="the region's new key")
            nearer = stack.admin.submit("hello again", model="near")
            wait_until(lambda: stack.admin.task(nearer)["status"] == "succeeded")
