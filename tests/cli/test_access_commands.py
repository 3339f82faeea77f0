"""`clients keys`, `policy`, `audit`, `apply`: access on the command line."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.access.audit_log import link_audit
from app.cli.root import group
from app.platform.database import Database
from app.platform.domain.errors import Rejected
from app.platform.migrate import upgrade

RULE = {
    "effect": "allow",
    "principal": ["user:team_a"],
    "resource": ["api:deepseek-chat"],
    "condition": {"time": {"between": ["09:00", "18:00"]}, "ip": {"in": ["192.168.1.0/24"]}},
}


@pytest.fixture
def url(sqlite_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    upgrade(sqlite_url)
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.chdir(tmp_path)
    return sqlite_url


def run(*arguments: str) -> Result:
    return CliRunner().invoke(group, arguments)


def test_a_file_of_clients_is_shown_and_then_made_so(url: str) -> None:
    file = Path("clients.toml")
    file.write_text('[[client]]\nid = "a"\nweight = 2.0\n[client.limits]\nrpm = 60\n', encoding="utf-8")
    assert "+ a" in run("apply", str(file), "--dry-run").output
    assert json.loads(run("clients", "list", "--json").output) == []
    assert "API key pk_" in run("apply", str(file), "--yes").output
    assert run("apply", str(file), "--yes").output == "No changes.\n"
    file.write_text('[[client]]\nid = "a"\nweight = 3.0\n', encoding="utf-8")
    assert "weight: 2.0 -> 3.0" in run("apply", str(file), "--yes").output


def test_keys_are_made_rotated_and_revoked_and_each_act_is_in_the_log(url: str) -> None:
    run("clients", "add", "a")
    assert run("clients", "keys", "add", "a", "--scope", "tasks:read", "--expires", "9d").output.startswith(
        "pk_"
    )
    keys = [json.loads(line) for line in run("clients", "keys", "list", "a").output.splitlines()]
    assert [key["scopes"] for key in keys] == [["*"], ["tasks:read"]]
    assert run("clients", "keys", "rotate", "a", keys[1]["id"]).output.startswith("pk_")
    assert run("clients", "keys", "revoke", "a", keys[0]["id"]).exit_code == 0
    lines = [json.loads(line) for line in run("audit", "export").output.splitlines()]
    assert [line["action"] for line in lines] == ["client.add", "key.add", "key.rotate", "key.revoke"]
    database = Database(url)
    database.write(lambda conn: link_audit(conn, 100))
    database.close()
    verified = run("audit", "verify")
    assert "4 entries verified" in verified.output


def test_a_policy_is_tried_before_it_is_kept(url: str) -> None:
    Path("rule.json").write_text(json.dumps(RULE), encoding="utf-8")
    asked = ("--user", "team_a", "--model", "deepseek-chat", "--ip", "192.168.1.7", "--default", "deny")
    within, outside = "2026-11-20T12:00:00Z", "2026-11-20T20:00:00Z"
    assert (
        run("policy", "test", "--file", "rule.json", *asked, "--at", within).output
        == "allowed by rule.json\n"
    )
    assert run("policy", "test", "--file", "rule.json", *asked, "--at", outside).exit_code != 0
    kept = run("policy", "add", "rule.json").output.strip()
    assert run("policy", "test", *asked, "--at", within).output == f"allowed by {kept}\n"
    assert run("policy", "remove", kept).exit_code == 0
    assert "penstock policy add" in run("policy", "list").output


def test_a_policy_with_a_zone_that_is_not_configured_is_refused_where_the_configuration_is_known(
    url: str,
) -> None:
    rule = {"effect": "deny", "principal": ["*"], "condition": {"zone": {"in": ["offic"]}}}
    Path("rule.json").write_text(json.dumps(rule), encoding="utf-8")
    assert run("policy", "add", "rule.json").exit_code == 0
    Path("penstock.toml").write_text('[access]\nzones = {office = ["10.0.0.0/8"]}\n', encoding="utf-8")
    refused = run("policy", "add", "rule.json")
    assert refused.exit_code != 0
    assert "has no 'offic'; there are office" in refused.output
    Path("rule.json").write_text(json.dumps(rule).replace("offic", "office"), encoding="utf-8")
    assert run("policy", "add", "rule.json").exit_code == 0


def test_a_client_is_changed_by_what_is_named_and_nothing_else(url: str) -> None:
    made = json.loads(run("clients", "add", "a", "--team", "t", "--limit", "rpm=60", "--json").output)
    assert (made["team"], made["limits"], made["api_key"][:3]) == ("t", {"rpm": 60}, "pk_")
    set_ = ("clients", "set", "a")
    changed = json.loads(
        run(
            *set_,
            "--weight",
            "3",
            "--limit",
            "money_per_day=0.10",
            "--limit",
            "currency=USD",
            "--limit",
            "store=false",
        ).output
    )
    limits = {"rpm": 60, "money_per_day": "0.10", "currency": "USD", "store": False}
    assert (changed["weight"], changed["team"], changed["limits"]) == (3.0, "t", limits)
    changed = json.loads(run(*set_, "--team", "", "--limit", "rpm=").output)
    assert (changed["team"], "rpm" in changed["limits"]) == (None, False)
    assert json.loads(run("clients", "show", "a").output) == changed
    assert json.loads(run("clients", "list", "--json").output) == [changed]
    for wrong in ((), ("--limit", "rpm"), ("--limit", "rpn=5"), ("--limit", "rpm=many"), ("--weight", "-1")):
        assert run(*set_, *wrong).exit_code != 0
    assert run("clients", "set", "nobody", "--weight", "2").exit_code != 0
    actions = [json.loads(line)["action"] for line in run("audit", "export").output.splitlines()]
    assert actions == ["client.add", "client.change", "client.change"]


def test_acts_on_callbacks_are_in_the_log(url: str) -> None:
    run("clients", "add", "a")
    assert run("callbacks", "rotate-secret", "a").output.startswith("whsec_")
    run("callbacks", "headers", "a", "-H", "X-Token: abc")
    run("callbacks", "replay", "--since", "2h")
    logged = run("audit", "export").output
    actions = [json.loads(line)["action"] for line in logged.splitlines()]
    assert actions == ["client.add", "callback_secret.rotate", "callback_headers.set", "callback.replay"]
    assert "abc" not in logged
    assert "whsec_" not in logged


def test_a_service_in_a_folder_of_its_own_is_found_by_it(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL")
    unknown = run("clients", "list")
    assert unknown.exit_code == 3
    assert "--data" in unknown.output
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    config = folder / "penstock.toml"
    config.write_text('[access]\ndefault = "deny"\n', encoding="utf-8")
    profile = {"database_url": url, "configuration": str(config)}
    (folder / "profile.json").write_text(json.dumps(profile), encoding="utf-8")
    at = ("--data", str(folder))
    assert json.loads(run("clients", "add", "a", "--json", *at).output)["id"] == "a"
    for command in (
        ("clients", "list"), ("clients", "show", "a"), ("clients", "keys", "list", "a"), ("policy", "list"),
        ("audit", "verify"), ("alerts", "list"), ("callbacks", "dead"), ("db", "status"),
    ):  # fmt: skip
        assert run(*command, *at).exit_code == 0, command
    assert "denied by default" in run("policy", "test", "--client", "a", "--model", "m", *at).output
    assert run("alerts", "test", *at).exit_code == 3  # no channel is configured in that file


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ('weight = "heavy"', "weight: must be a number"),
        ("limits = 5", "limits: must be a table"),
        ("granted_priority = 3", "granted_priority: must be text"),
        ("team = true", "team: must be text"),
        ("limits = { rpm = 'many' }", "limits.rpm"),
    ],
)
def test_a_file_of_clients_that_is_wrong_is_refused_by_its_field(url: str, table: str, named: str) -> None:
    Path("clients.toml").write_text(f'[[client]]\nid = "a"\n{table}\n', encoding="utf-8")
    refused = run("apply", "clients.toml", "--yes")
    assert isinstance(refused.exception, SystemExit | Rejected), refused.exception
    assert named in refused.output + str(refused.exception)
    assert json.loads(run("clients", "list", "--json").output) == []


def test_an_export_is_the_same_as_over_http(url: str) -> None:
    run("clients", "add", "a")
    (line,) = run("audit", "export", "--limit", "1").output.splitlines()
    assert json.loads(line)["at"].endswith("Z")
    assert run("audit", "export", "--limit", "0").exit_code == 2


def test_a_file_to_warm_that_is_no_text_is_refused(url: str) -> None:
    Path("prompts.txt").write_bytes(b"\xff\xfe\xfa")
    refused = run("cache", "warm", "prompts.txt", "--url", "http://127.0.0.1:9", "--key", "pk_x")
    assert refused.exit_code == 1
    assert "prompts.txt: not UTF-8" in refused.output
