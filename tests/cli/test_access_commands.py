"""`clients keys`, `policy`, `audit`, `apply`: access on the command line."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli.root import group
from app.db.audit import link_audit
from app.db.database import Database
from app.db.migrate import upgrade

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
    assert run("apply", str(file), "--yes").output == "Nothing to do.\n"
    file.write_text('[[client]]\nid = "a"\nweight = 3.0\n', encoding="utf-8")
    assert "weight: 2.0 -> 3.0" in run("apply", str(file), "--yes").output


def test_keys_are_made_rotated_and_revoked_and_each_act_is_in_the_log(url: str) -> None:
    run("clients", "add", "a")
    assert run("clients", "keys", "add", "a", "--scope", "tasks:read", "--expires", "9d").output.startswith(
        "pk_"
    )
    keys = [json.loads(line) for line in run("clients", "keys", "list", "a").output.splitlines()]
    assert [key["scopes"] for key in keys] == ["*", "tasks:read"]
    assert run("clients", "keys", "rotate", "a", keys[1]["id"]).output.startswith("pk_")
    assert run("clients", "keys", "revoke", "a", keys[0]["id"]).exit_code == 0
    lines = [json.loads(line) for line in run("audit", "export").output.splitlines()]
    assert [line["action"] for line in lines] == ["key.add", "key.rotate", "key.revoke"]
    database = Database(url)
    database.write(lambda conn: link_audit(conn, 100))
    database.close()
    assert "3 entries hold" in run("audit", "verify").output


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
    assert run("policy", "list").output == ""
