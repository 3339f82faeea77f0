"""Which configuration the commands that examine a service go by."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.cli.doctor.bundle import redact, shown
from app.cli.doctor.command import find
from app.cli.profile import Profile, save
from app.diagnosis.domain.finding import Level

CONFIG = """
[[upstream]]
name = "u"
base_url = "https://u.example/v1"
[[key]]
name = "{name}"
upstream = "u"
secret = "env:K"
"""


def written(path: Path, name: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(CONFIG.format(name=name))
    return path


def key_found(config: Path | None, data: Path, **environ: str) -> str:
    return find(config, data, environ).settings.keys[0].name


def test_the_file_that_the_service_was_started_with_stands_before_the_one_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "here" / "penstock.toml", "here")
    given = written(tmp_path / "given.toml", "given")
    started = written(tmp_path / "service" / "x.toml", "started")
    data = tmp_path / "data"
    save(data, Profile(configuration=str(started)))
    monkeypatch.chdir(tmp_path / "here")
    assert key_found(None, data) == "started"
    assert key_found(given, data) == "given"
    assert key_found(None, data, PENSTOCK_CONFIG=str(given)) == "given"
    assert key_found(None, tmp_path / "other") == "here"
    started.unlink()
    assert key_found(None, data) == "here"


def levels(data: Path) -> dict[str, Level]:
    return {each.name: each.level for each in find(None, data, {}).findings}


def test_without_keys_or_a_service_nothing_is_all_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert levels(tmp_path / "nothing") == {"file": Level.WARN, "service": Level.NOT_MEASURED}
    save(tmp_path / "data", Profile(url="http://h", configuration=str(tmp_path / "gone.toml")))
    assert levels(tmp_path / "data") == {"file": Level.WARN, "service's file": Level.WARN}
    here = written(tmp_path / "here.toml", "here")
    save(tmp_path / "data", Profile(configuration=str(here)))
    assert levels(tmp_path / "data")["file"] is Level.OK


def test_a_bundle_keeps_references_and_figures_and_hides_any_other_text() -> None:
    read = {
        "default_model": "m",
        "upstream": [{"name": "u", "base_url": "https://u.example/v1?token=abc", "timeout": 20,
                      "headers": {"name": "plain-secret", "X-A": "env:X"}, "proxy_auth": "user:pass"}],
        "key": [{"name": "k", "secret": "command:vault read -token=abc", "weight": 2.5}],
        "alerts": {"critical": ["mailto://user:pass@h", "env:MAIL", "file:/run/mail"]},
        "storage": {"encryption_key": "0123456789abcdef"},
    }  # fmt: skip
    kept = shown(read)
    assert kept["upstream"][0]["base_url"] == "https://u.example/v1"
    assert kept["upstream"][0]["headers"] == {"name": "(hidden)", "X-A": "env:X"}
    assert kept["key"] == [{"name": "k", "secret": "command:(hidden)", "weight": 2.5}]
    assert kept["alerts"]["critical"] == ["(hidden)", "env:MAIL", "file:/run/mail"]
    for secret in ("abc", "plain-secret", "pass", "0123456789"):
        assert secret not in str(kept)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("the key hunter2 failed", "the key (hidden) failed"),
        ("postgresql://u:pw@h/db", "postgresql://***@h/db"),
        ("refused sk-proj-0123456789abcdef", "refused (hidden)"),
        ("Authorization: Bearer abc.def-ghi_jkl", "Authorization: Bearer ***"),
        ("request id req-0123456789abcdef", "request id req-0123456789abcdef"),
    ],
)
def test_texts_of_a_bundle_hold_no_secret(text: str, left: str) -> None:
    assert redact(text, ["hunter2", ""]) == left
