"""The local profile, and which service the commands speak to."""

from pathlib import Path

import pytest

from app.cli.failure import CommandFailure, Exit
from app.cli.flower import credentials
from app.cli.profile import Profile, data_folder, load, save
from app.cli.remote import find

KNOWN = Profile(url="http://127.0.0.1:8000", api_key="pk_here", flower_auth="penstock:word")


def test_a_profile_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    save(tmp_path, KNOWN)
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()}
    assert modes == {"profile.json": "0o600", "authorization": "0o600"}
    assert load(tmp_path) == KNOWN


def test_the_header_file_is_what_curl_sends(tmp_path: Path) -> None:
    save(tmp_path, KNOWN)
    assert (tmp_path / "authorization").read_text() == "Authorization: Bearer pk_here\n"


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"url": 5, "unknown": 1}'])
def test_an_unreadable_profile_is_an_empty_one(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "profile.json").write_text(text)
    assert load(tmp_path).api_key == ""


def test_the_folder_is_given_or_named_by_the_environment_or_here(tmp_path: Path) -> None:
    assert data_folder({}, tmp_path) == tmp_path
    assert data_folder({"PENSTOCK_DATA": "/elsewhere"}) == Path("/elsewhere")
    assert data_folder({}) == Path.cwd() / ".penstock"


def test_address_and_key_come_from_options_then_environment_then_profile(tmp_path: Path) -> None:
    save(tmp_path, KNOWN)
    environ = {"PENSTOCK_URL": "http://there/", "PENSTOCK_API_KEY": "pk_there"}
    assert find("http://given", "pk_given", environ, tmp_path).url == "http://given"
    there = find(None, None, environ, tmp_path)
    assert (there.url, there.api_key) == ("http://there", "pk_there")
    assert find(None, None, {}, tmp_path).api_key == "pk_here"


@pytest.mark.parametrize("given", [{}, {"PENSTOCK_URL": "http://there"}])
def test_without_a_service_or_a_key_the_mend_is_said(tmp_path: Path, given: dict[str, str]) -> None:
    with pytest.raises(CommandFailure) as refused:
        find(None, None, given, tmp_path)
    assert refused.value.exit_code == Exit.CONFIGURATION
    assert refused.value.hint


def test_a_key_does_not_show_in_what_is_printed(tmp_path: Path) -> None:
    save(tmp_path, KNOWN)
    assert "pk_here" not in repr(find(None, None, {}, tmp_path))


def test_flowers_password_is_as_set_or_kept_or_made_and_kept(tmp_path: Path) -> None:
    assert credentials({"PENSTOCK_FLOWER_AUTH": "ops:secret"}, tmp_path) == "ops:secret"
    assert credentials({"FLOWER_BASIC_AUTH": "ops:other"}, tmp_path) == "ops:other"
    made = credentials({}, tmp_path)
    assert made == credentials({}, tmp_path)
    assert len(made) > 16


def test_a_flower_login_without_a_password_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandFailure, match="user:password"):
        credentials({"PENSTOCK_FLOWER_AUTH": "ops:"}, tmp_path)
