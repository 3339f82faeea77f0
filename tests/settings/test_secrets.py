"""Secrets by reference: found, or an error that says what to do and never what was found."""

import sys
from pathlib import Path

import pytest

from app.settings import ConfigError, key_secrets, load_settings, resolve_secret, upstream_headers

PYTHON = sys.executable


def _refused(reference: str, **environ: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        resolve_secret(reference, environ)
    return caught.value


def test_a_secret_comes_from_the_environment() -> None:
    assert resolve_secret("env:KEY", {"KEY": "sk-1"}) == "sk-1"


def test_a_secret_comes_from_a_file_without_its_line_break(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-2\n")
    assert resolve_secret(f"file:{tmp_path / 'key'}", {}) == "sk-2"


def test_a_secret_comes_from_a_program_that_prints_it() -> None:
    assert resolve_secret(f"""command:{PYTHON} -c 'print("sk-3")'""", {}) == "sk-3"


def test_a_program_sees_the_environment_and_no_shell() -> None:
    code = "import os, sys; print(os.environ['WHO'] + '-' + sys.argv[1])"
    assert resolve_secret(f'command:{PYTHON} -c "{code}" $HOME;id', {"WHO": "me"}) == "me-$HOME;id"


def test_an_unset_variable_is_an_error_that_names_it() -> None:
    error = _refused("env:DEEPSEEK_API_KEY", OTHER="x")
    assert str(error) == (
        "env:DEEPSEEK_API_KEY: DEEPSEEK_API_KEY is not set in the environment; "
        "hint: export DEEPSEEK_API_KEY=..."
    )


@pytest.mark.parametrize("empty", ["", "  ", "\n"])
def test_an_empty_secret_is_an_error(empty: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(empty)
    assert "empty" in _refused("env:KEY", KEY=empty).message
    assert "empty" in _refused(f"file:{tmp_path / 'key'}").message


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    error = _refused(f"file:{tmp_path / 'nothing'}")
    assert "cannot be read (No such file or directory)" in error.message
    assert "let this user read it" in error.hint


def test_a_folder_in_place_of_a_file_is_an_error(tmp_path: Path) -> None:
    assert "cannot be read" in _refused(f"file:{tmp_path}").message


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\xff\xfe\x00")
    assert "not text" in _refused(f"file:{tmp_path / 'key'}").message


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (f"""{PYTHON} -c 'print("hunter2"); raise SystemExit(3)'""", "exit code 3"),
        (f"""{PYTHON} -c 'import sys; sys.exit("hunter2")'""", "exit code 1"),
        ("/nowhere/vault read key", "cannot be run (No such file or directory)"),
        ("echo 'open", "no command line"),
        ("true", "empty"),
    ],
)
def test_a_program_that_fails_is_an_error_without_what_it_printed(command: str, said: str) -> None:
    error = _refused(f"command:{command}")
    assert said in error.message
    assert "hunter2" not in error.message + error.hint


@pytest.mark.parametrize("value", ["hunter2\nX-Evil: 1", "hunter2 two", "hunter2\x00", "hünter2"])
def test_a_secret_that_cannot_stand_in_a_header_is_an_error_without_the_secret(value: str) -> None:
    error = _refused("env:KEY", KEY=value)
    assert "one line and nothing else" in error.hint
    assert "nter2" not in str(error)


@pytest.mark.parametrize("reference", ["sk-hunter2", "vault:hunter2", "env:", "file: ", ""])
def test_what_is_no_reference_is_an_error_that_does_not_repeat_it(reference: str) -> None:
    error = _refused(reference)
    assert "env:NAME" in error.hint
    assert "hunter2" not in str(error)


CONFIG = """\
[[upstream]]
name = "u"
base_url = "http://127.0.0.1:1/v1"
[[key]]
name = "one"
upstream = "u"
secret = "env:ONE"
[[key]]
name = "two"
upstream = "u"
secret = "env:TWO"
"""


def test_every_keys_secret_is_found_and_shown_nowhere(tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text(CONFIG)
    settings = load_settings(tmp_path / "penstock.toml", {})
    secrets = key_secrets(settings, {"ONE": "hunter2", "TWO": "hunter3"})
    assert {name: secret.get_secret_value() for name, secret in secrets.items()} == {
        "one": "hunter2",
        "two": "hunter3",
    }
    assert "hunter" not in repr(secrets)


def test_a_key_without_its_secret_is_told_by_line_and_name(tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text(CONFIG)
    settings = load_settings(tmp_path / "penstock.toml", {})
    with pytest.raises(ConfigError) as caught:
        key_secrets(settings, {"ONE": "hunter2"})
    assert (caught.value.line, caught.value.hint) == (11, "export TWO=...")
    assert 'secret of key "two" (env:TWO): TWO is not set' in caught.value.message


def test_a_worker_needs_the_secrets_of_its_own_keys_alone(tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text(CONFIG)
    settings = load_settings(tmp_path / "penstock.toml", {})
    assert list(key_secrets(settings, {"ONE": "hunter2"}, ["one"])) == ["one"]


UPSTREAM_HEADERS = """\
[[upstream]]
name = "u"
base_url = "https://u.example/v1"
proxy = "http://proxy:3128"
proxy_auth = "env:PROXY"
headers = { X-Title = "ours", X-Gate = "env:GATE" }
"""


def test_headers_and_the_proxys_password_are_fetched_from_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text(UPSTREAM_HEADERS)
    settings = load_settings(tmp_path / "penstock.toml", {})
    headers = upstream_headers(settings, {"PROXY": "ann:hunter2", "GATE": "hunter3"})["u"]
    assert headers.headers == {"X-Title": "ours", "X-Gate": "hunter3"}
    assert (headers.hidden, headers.proxy_auth) == (("hunter3",), "ann:hunter2")
    assert "hunter" not in repr(headers)
    assert upstream_headers(settings, {}, []) == {}


@pytest.mark.parametrize(("missing", "line"), [("PROXY", 5), ("GATE", 6)])
def test_an_outfit_without_its_secrets_is_told_by_line_and_name(
    tmp_path: Path, missing: str, line: int
) -> None:
    (tmp_path / "penstock.toml").write_text(UPSTREAM_HEADERS)
    settings = load_settings(tmp_path / "penstock.toml", {})
    there = {name: "hunter2" for name in ("PROXY", "GATE") if name != missing}
    with pytest.raises(ConfigError) as caught:
        upstream_headers(settings, there)
    assert (caught.value.line, caught.value.hint) == (line, f"export {missing}=...")
    assert "hunter" not in str(caught.value)
