"""What a reload changes in a running process, and what needs a new start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.cli.reload import AT_START, ask, needs_restart
from app.cli.stack import Stack, components
from app.composition.container import Container, read_settings
from app.platform.encryption import KeyRing, seal, use_vault
from app.platform.migrate import upgrade
from app.settings import Settings
from tests.stack import Key, configuration, key_environment


def settings(*keys: str, **more: Any) -> Settings:
    return Settings.model_validate(
        {
            "upstream": [{"name": "up", "base_url": "https://upstream.example/v1"}],
            "key": [{"name": key, "upstream": "up", "secret": "env:K"} for key in keys],
            **more,
        }
    )


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"quota": [{"account": "k1", "rpm": 5}]},
        {"model": [{"name": "m", "tiers": [["k1"]]}]},
        {"retry": {"patient": {"attempts": 9}}},
        {"health": {"retest": 5}},
        {"storage": {"encryption_key": "env:CONTENT_KEY", "retention": 86400}},
    ],
)
def test_keys_quotas_and_models_are_taken_while_everything_runs(more: dict[str, Any]) -> None:
    assert not needs_restart(settings("k1"), settings("k1", "k2", **more))


@pytest.mark.parametrize(
    "more", [{"worker": {"concurrency": 7}}, {"api": {"waiters": 3}}, {"metrics": {"clients": 3}}]
)
def test_what_is_read_at_the_start_alone_needs_one(more: dict[str, Any]) -> None:
    assert needs_restart(settings("k1"), settings("k1", **more))


def test_every_such_section_exists() -> None:
    assert set(AT_START) <= set(Settings.model_fields)


def test_the_dispatcher_is_never_away_because_of_a_reload(tmp_path: Path) -> None:
    stack = Stack("127.0.0.1", 1, 2, workers=2, data=tmp_path, drain_seconds=1.0)
    restarted = {one.name for one in components(stack, lambda _: bool, bool) if one.renewed}
    assert restarted == {"api", "worker-1", "worker-2", "callbacks"}


KEYS = [Key("k1", rpm=600, concurrency=5)]
CONTENT_KEY = '[storage]\nencryption_key = "{}"\n'


class Process:
    """A process that follows reloads of its file."""

    def __init__(self, folder: Path) -> None:
        self.file, self.url = folder / "penstock.toml", f"sqlite:///{folder}/penstock.db"
        self.taken: list[Settings] = []

    def write(self, more: str) -> None:
        self.file.write_text(configuration("http://127.0.0.1:9", KEYS, more=more))

    def reload(self, more: str) -> None:
        self.write(more)
        ask(self.url)
        self.following.tick()

    def start(self, environ: dict[str, str]) -> None:
        self.parts = Container(read_settings(environ))
        self.following = self.parts.follow(self.taken.append)
        self.following.tick()


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    made = Process(tmp_path)
    made.write("")
    upgrade(made.url)
    environ = {
        **key_environment(KEYS),
        "DATABASE_URL": made.url,
        "REDIS_URL": "redis://127.0.0.1:9",
        "PENSTOCK_CONFIG": str(made.file),
        "CONTENT_KEY": "a-content-key",
        "OTHER_KEY": "another-content-key",
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    made.start(environ)
    yield made
    made.parts.database.close()
    use_vault(None)


def test_a_content_key_comes_changes_and_goes_by_reloads(process: Process) -> None:
    assert seal("words") == "words"
    process.reload(CONTENT_KEY.format("env:CONTENT_KEY"))
    assert KeyRing([b"a-content-key"]).unseal(seal("words")) == "words"
    process.reload(CONTENT_KEY.format("env:OTHER_KEY") + 'previous_keys = ["env:CONTENT_KEY"]\n')
    assert KeyRing([b"another-content-key"]).unseal(seal("words")) == "words"
    process.reload("")
    assert seal("words") == "words"
    assert len(process.taken) == 3


def test_a_content_key_that_cannot_be_resolved_is_no_reload(process: Process) -> None:
    process.reload(CONTENT_KEY.format("env:CONTENT_KEY"))
    process.reload(CONTENT_KEY.format("env:NOWHERE") + "retention = 86400\n")
    assert KeyRing([b"a-content-key"]).unseal(seal("words")) == "words"
    assert len(process.taken) == 1
