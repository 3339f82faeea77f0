"""What `penstock up` decides before it starts anything."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from app.cli import presets
from app.cli.failure import CommandFailure
from app.cli.profile import Profile, save
from app.cli.setup import Setup, UpParams, find_configuration, prepare
from app.cli.stack import components
from app.cli.up import curl_lines, lines_when_ready
from app.settings import ConfigError, load_settings

REAL = """
[[upstream]]
name = "deepseek"
base_url = "https://api.deepseek.com/v1"
[[key]]
name = "main"
upstream = "deepseek"
secret = "env:REAL"
[[model]]
name = "m"
tiers = [["main"]]
"""


@pytest.fixture
def wish(tmp_path: Path) -> UpParams:
    """Nothing but a folder, and ports that are free."""
    return UpParams(data=tmp_path / "data", port=0, flower_port=0)


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """A configuration with a key."""
    file = tmp_path / "penstock.toml"
    file.write_text(REAL)
    return file


def text(setup: Setup) -> str:
    """All that would be printed when it is ready."""
    return "\n".join(lines_when_ready(setup))


def test_configured_keys_are_used_for_real(wish: UpParams, real: Path) -> None:
    found = find_configuration(replace(wish, config=real), {"REAL": "sk-1"})
    assert (found.file, found.simulated) == (real, False)


def test_configured_keys_are_simulated_when_asked_and_need_no_secret(wish: UpParams, real: Path) -> None:
    found = find_configuration(replace(wish, config=real, simulate=True), {})
    assert (found.file, found.simulated) == (real, True)


def test_a_key_whose_secret_is_unset_is_an_error_and_never_simulated_by_itself(
    wish: UpParams, real: Path
) -> None:
    with pytest.raises(ConfigError, match="REAL is not set"):
        find_configuration(replace(wish, config=real, simulate_without_key=True), {})


def test_deepseeks_key_alone_is_enough(
    wish: UpParams, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    found = find_configuration(replace(wish, simulate_without_key=True), {"DEEPSEEK_API_KEY": "sk-1"})
    assert (found.file, found.simulated) == (presets.DEEPSEEK, False)


def test_nothing_at_all_is_simulated_only_when_that_was_allowed(
    wish: UpParams, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_configuration(replace(wish, simulate_without_key=True), {}).simulated
    with pytest.raises(CommandFailure, match="no upstream key"):
        find_configuration(wish, {})


def test_what_components_read_is_a_good_configuration_without_a_real_address(wish: UpParams) -> None:
    setup = prepare(replace(wish, simulate=True), {})
    settings = load_settings(setup.configuration, setup.environment)
    assert str(setup.stack.simulator_port) in settings.upstreams[0].base_url
    password = setup.environment["PENSTOCK_REDIS_PASSWORD"]
    assert settings.redis_url == f"redis://:{password}@127.0.0.1:{setup.stack.redis_port}/0"
    assert settings.database_url == f"sqlite:///{wish.data}/simulated.db"


def test_simulated_and_real_answers_never_share_a_database_or_redis(wish: UpParams, real: Path) -> None:
    simulated = prepare(replace(wish, config=real, simulate=True), {})
    true = prepare(replace(wish, config=real), {"REAL": "sk-1"})
    assert simulated.profile.database_url != true.profile.database_url
    assert simulated.stack.redis_folder != true.stack.redis_folder


def test_given_servers_are_used_and_none_is_started(wish: UpParams) -> None:
    given = {"REDIS_URL": "redis://there:6379/0", "DATABASE_URL": "postgresql://there/penstock"}
    setup = prepare(replace(wish, simulate=True), given)
    assert setup.stack.redis_port is None
    assert setup.environment["REDIS_URL"] == given["REDIS_URL"]
    assert setup.environment["DATABASE_URL"] == "postgresql+psycopg://there/penstock"


def test_the_redis_of_our_own_asks_for_a_password_that_is_made_once(wish: UpParams) -> None:
    first = prepare(replace(wish, simulate=True), {})
    password = first.environment["PENSTOCK_REDIS_PASSWORD"]
    assert re.fullmatch(r"[\w-]{32}", password)
    assert first.environment["REDIS_URL"] == f"redis://:{password}@127.0.0.1:{first.stack.redis_port}/0"
    assert password not in text(first)
    assert password not in str(components(first.stack, lambda _: lambda: True, lambda: True))
    save(wish.data, first.profile)
    assert prepare(replace(wish, simulate=True), {}).environment["PENSTOCK_REDIS_PASSWORD"] == password


def test_a_folder_of_a_version_without_a_redis_password_gets_one(wish: UpParams) -> None:
    save(wish.data, Profile(redis_url="redis://127.0.0.1:4444/0"))
    assert len(prepare(replace(wish, simulate=True), {}).environment["PENSTOCK_REDIS_PASSWORD"]) == 32


def test_an_administrators_key_is_made_shown_once_and_then_kept(wish: UpParams) -> None:
    first = prepare(replace(wish, simulate=True), {})
    assert first.new_admin_key
    assert text(first).count(first.new_admin_key) == 1
    save(wish.data, first.profile)
    second = prepare(replace(wish, simulate=True), {})
    assert second.environment["PENSTOCK_ADMIN_KEY"] == first.new_admin_key
    assert first.new_admin_key not in text(second)


def test_a_given_redis_is_used_as_it_is_given(wish: UpParams) -> None:
    found = prepare(replace(wish, simulate=True), {"REDIS_URL": "redis://:theirs@127.0.0.1:4444/0"})
    assert found.environment["REDIS_URL"] == "redis://:theirs@127.0.0.1:4444/0"
    assert (found.profile.redis_url, found.environment["PENSTOCK_REDIS_PASSWORD"]) == ("", "")


def test_an_administrators_key_of_the_environment_is_neither_written_nor_shown(wish: UpParams) -> None:
    key = "pk_" + "k" * 43
    setup = prepare(replace(wish, simulate=True), {"PENSTOCK_ADMIN_KEY": key})
    assert setup.environment["PENSTOCK_ADMIN_KEY"] == key
    assert setup.profile.api_key == ""
    assert key not in text(setup)
    assert all("$PENSTOCK_ADMIN_KEY" in line for line in curl_lines(setup))


def test_callbacks_reach_this_machine_where_answers_are_made_up_and_elsewhere_it_says_how(
    wish: UpParams, real: Path
) -> None:
    simulated = prepare(replace(wish, simulate_without_key=True), {})
    assert load_settings(simulated.configuration, {}).callbacks.allow_networks
    assert '"callback_url": "http://127.0.0.1:8787/"' in text(simulated)
    assert f"penstock listen --data {wish.data}" in text(simulated)
    own = prepare(replace(wish, config=real), {"REAL": "sk-1"})
    assert not load_settings(own.configuration, {}).callbacks.allow_networks
    assert "first set [callbacks] allow_networks" in text(own)


def test_no_key_stands_in_a_printed_curl_line(wish: UpParams) -> None:
    setup = prepare(replace(wish, simulate=True), {})
    assert all(setup.profile.api_key not in line for line in curl_lines(setup))


def test_flowers_login_is_shown_unless_the_operator_has_set_it(wish: UpParams) -> None:
    made = prepare(replace(wish, simulate=True), {})
    assert made.profile.flower_auth in text(made)
    given = prepare(replace(wish, simulate=True), {"PENSTOCK_FLOWER_AUTH": "ops:secret"})
    assert "secret" not in text(given)
