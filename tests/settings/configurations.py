"""Small configurations, to be changed where a test cares."""

from pathlib import Path

import pytest

from app.settings import ConfigError, Settings, load_settings

BASE = """\
default_model = "flash"
[[upstream]]
name = "deepseek"
base_url = "https://api.deepseek.com/v1"
[[key]]
name = "main"
upstream = "deepseek"
secret = "env:KEY"
[[quota]]
account = "main"
rpm = 600
[[model]]
name = "flash"
tiers = [["main"]]
[retry.default]
attempts = 3
"""


def load(tmp_path: Path, text: str, **environ: str) -> Settings:
    file = tmp_path / "penstock.toml"
    file.write_text(text, encoding="utf-8")
    return load_settings(file, environ)


def refused(tmp_path: Path, text: str, **environ: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, **environ)
    return caught.value


def changed(old: str, new: str) -> str:
    assert BASE.count(old) == 1, f"{old!r} must stand in BASE once"
    return BASE.replace(old, new)
