"""`penstock up`, as somebody at a terminal meets it."""

import json
import shutil
import signal
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import redis

from app.cli.listen import Listener
from tests.cli.running import penstock, survivors, wait_until
from tests.e2e.up import CONFIGURATION, Up

pytestmark = pytest.mark.xdist_group("up")


def test_a_prompt_goes_in_over_http_and_its_result_and_a_signed_callback_come_out(up: Up) -> None:
    alice = up.add_client("alice")
    with Listener([alice["callback_secret"]]) as listener:
        body = {"prompt": "Say hello", "callback_url": listener.url}
        task = up.call("POST", "/v1/tasks", body, alice["api_key"])
        ended = up.call("GET", f"/v1/tasks/{task['id']}?wait=60", key=alice["api_key"])
        assert (ended["status"], ended["simulated"]) == ("succeeded", True)
        assert listener.wait_for(bool, 120)
    assert listener.receipts[0].verified
    assert listener.receipts[0].event["data"]["id"] == task["id"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_printed_curl_lines_run_as_pasted(up: Up, tmp_path: Path) -> None:
    lines = [line.strip() for line in up.said.splitlines() if line.strip().startswith("curl")]
    pasted = [
        subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, check=True) for line in lines
    ]
    assert [json.loads(done.stdout)["object"] for done in pasted] == ["task", "list", "batch"]


def test_the_commands_find_the_service_by_its_profile(up: Up) -> None:
    task = up.call("POST", "/v1/tasks", {"prompt": "one"})
    shown = penstock("tasks", "get", task["id"], "--wait", "60", cwd=up.folder)
    assert shown.returncode == 0, shown.stderr
    assert "succeeded" in shown.stdout
    listed = penstock("tasks", "list", "--status", "succeeded", "--json", cwd=up.folder)
    assert task["id"] in [row["id"] for row in json.loads(listed.stdout)["data"]]
    unknown = penstock("tasks", "get", "task_unknown", cwd=up.folder)
    assert (unknown.returncode, unknown.stdout) == (1, "")


def test_a_second_one_in_the_same_folder_is_refused_with_the_mend(up: Up) -> None:
    refused = penstock("up", "--simulate", cwd=up.folder)
    assert refused.returncode == 1
    assert str(up.running.process.pid) in refused.stderr
    assert "--data" in refused.stderr


def test_a_taken_port_is_refused_before_anything_starts(up: Up, tmp_path: Path) -> None:
    port = up.profile.url.rsplit(":", 1)[1]
    refused = penstock("up", "--simulate", "--port", port, cwd=tmp_path)
    assert refused.returncode == 1
    assert f"port {port} is in use" in refused.stderr
    assert not (tmp_path / ".penstock" / "logs").exists()


def test_sighup_reads_the_configuration_again_unless_it_is_wrong(up: Up) -> None:
    file = up.folder / "penstock.toml"
    before = file.read_text()
    file.write_text(before + 'nonsense = "yes"\n')
    up.running.process.send_signal(signal.SIGHUP)
    up.running.until("Not reloaded; the current configuration stays in use")
    file.write_text(before + '[[model]]\nname = "fresh"\ntiers = [["main:deepseek-flash"]]\n')
    up.running.process.send_signal(signal.SIGHUP)
    up.running.until("Reloading")
    task = wait_until(lambda: up.try_submit({"prompt": "new", "model": "fresh"}))
    assert up.call("GET", f"/v1/tasks/{task['id']}?wait=60")["status"] == "succeeded"
    assert "started again" not in up.said


def test_what_is_kept_is_for_its_owner_only_and_no_log_holds_the_key(up: Up) -> None:
    data = up.folder / ".penstock"
    assert oct(data.stat().st_mode & 0o777) == "0o700"
    key = up.profile.api_key
    assert key.startswith("pk_")
    assert up.said.count(key) == 1
    logs = "".join(log.read_text(errors="replace") for log in (data / "logs").iterdir())
    assert key not in logs
    assert up.profile.flower_auth.split(":")[1] not in logs


def test_the_redis_of_our_own_is_for_its_owner_only(up: Up) -> None:
    address = urlsplit(up.profile.redis_url)
    assert address.password
    for password in (None, "wrong"):
        with (
            redis.Redis(port=address.port or 0, password=password) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()
    command_lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in command_lines if address.password in line]
    logs = (up.folder / ".penstock").rglob("*.log")
    assert not [log for log in logs if address.password in log.read_text(errors="replace")]
    assert address.password not in up.said


def test_without_a_key_it_stops_and_says_what_to_do(tmp_path: Path) -> None:
    refused = penstock("up", cwd=tmp_path)
    assert refused.returncode == 3
    assert all(word in refused.stderr for word in ("DEEPSEEK_API_KEY", "penstock.toml", "--simulate"))


def test_an_unset_secret_is_an_error_that_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text(CONFIGURATION)
    refused = penstock("up", cwd=tmp_path)
    assert refused.returncode == 3
    assert "penstock.toml:9" in refused.stderr
    assert "PLANTED_SECRET" in refused.stderr


def test_killed_it_leaves_nothing_and_starts_again_where_it_was(tmp_path: Path) -> None:
    """kill -9; then a second start on the same folder; then an orderly end."""
    with Up(tmp_path) as first:
        family = first.running.family()
        task = first.call("POST", "/v1/tasks", {"prompt": "kept"})
        first.call("GET", f"/v1/tasks/{task['id']}?wait=60")
        key = first.profile.api_key
        first.running.process.kill()
        first.running.process.wait(60)
        assert len(family) >= 8
        assert survivors(family) == []
    with Up(tmp_path) as second:
        assert key not in second.said  # printed once, that was before
        assert second.profile.api_key == key
        assert second.call("GET", f"/v1/tasks/{task['id']}")["status"] == "succeeded"
        family = second.running.family()
        assert second.running.end(signal.SIGTERM) == 0, second.said
        assert survivors(family) == []
        assert not (tmp_path / ".penstock" / "run" / "processes.json").exists()
