"""Which configuration the commands that examine a service go by."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.cli.doctor.command import find
from app.cli.profile import Profile, save

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
