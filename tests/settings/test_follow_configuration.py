"""A process follows reloads: it takes what is good, and keeps what it has when the file is wrong."""

from __future__ import annotations

import pytest

from app.platform.database import Database
from app.settings import ConfigError, Settings
from app.settings.follow_configuration import FollowConfiguration, ask_reload, ask_secrets, generation


class File:
    """What stands in the file, or what is wrong with it."""

    def __init__(self) -> None:
        self.now: Settings | ConfigError = Settings()
        self.taken: list[Settings] = []
        self.refusal: ConfigError | None = None

    def load(self) -> Settings:
        if isinstance(self.now, ConfigError):
            raise self.now
        return self.now

    def take(self, settings: Settings) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.taken.append(settings)


@pytest.fixture
def file() -> File:
    return File()


@pytest.fixture
def follow(database: Database, file: File) -> FollowConfiguration:
    return FollowConfiguration(database, Settings(), file.load, file.take)


def ask(database: Database) -> int:
    return database.write(lambda conn: ask_reload(conn, 1.0))


WRONG = ConfigError("penstock.toml", 3, "not TOML", "write it as TOML")


def test_reloads_are_counted(database: Database) -> None:
    assert database.read(generation) == 0
    assert [ask(database), ask(database)] == [1, 2]


def test_another_configuration_is_taken_once_it_is_asked_for(
    database: Database, file: File, follow: FollowConfiguration
) -> None:
    assert not follow.tick()
    file.now = Settings(default_model="b")
    assert not follow.tick()
    ask(database)
    assert follow.tick()
    assert not follow.tick()
    assert file.taken == [file.now]


def test_what_has_changed_between_the_start_and_the_first_look_is_taken(
    file: File, follow: FollowConfiguration
) -> None:
    file.now = Settings(default_model="b")
    assert follow.tick()


def test_a_wrong_file_changes_nothing_and_a_mended_one_is_taken(
    database: Database, file: File, follow: FollowConfiguration
) -> None:
    follow.tick()
    file.now = WRONG
    ask(database)
    assert not follow.tick()
    file.now = Settings(default_model="b")
    ask(database)
    assert follow.tick()


def test_what_cannot_be_taken_is_not_in_force(
    database: Database, file: File, follow: FollowConfiguration
) -> None:
    follow.tick()
    file.now, file.refusal = Settings(default_model="b"), WRONG
    ask(database)
    assert not follow.tick()
    file.refusal = None
    ask(database)
    assert follow.tick()


def test_the_same_again_disturbs_nobody(database: Database, file: File, follow: FollowConfiguration) -> None:
    follow.tick()
    ask(database)
    assert not follow.tick()
    assert file.taken == []


def test_secrets_are_looked_at_again_for_themselves_and_with_every_reload(
    database: Database, file: File
) -> None:
    looked: list[str] = []
    follow = FollowConfiguration(database, Settings(), file.load, file.take, lambda: looked.append("again"))
    follow.tick()
    follow.tick()
    assert len(looked) == 1  # they may have changed between the start and the first look
    file.now = WRONG
    database.write(lambda conn: ask_secrets(conn, 1.0))
    assert not follow.tick()
    assert len(looked) == 2
    file.now = Settings()
    ask(database)
    follow.tick()
    assert len(looked) == 3
    assert database.read(generation) == 1
