"""The configuration: what is refused with file, line and hint."""

from pathlib import Path

import pytest

from app.settings import ConfigError, load_settings
from tests.settings.configurations import changed, refused

# What is refused. Each row: the change to BASE, the line, words of the message, words of the hint.

REFUSALS = [
    # unknown names
    (
        'name = "deepseek"',
        'name = "deepseek"\ntimout = 5',
        4,
        'unknown name "timout" in [[upstream]]',
        '"timeout"',
    ),
    (
        "rpm = 600",
        "requests_a_minute = 600",
        11,
        'unknown name "requests_a_minute" in [[quota]]',
        "known here: account",
    ),
    ("attempts = 3", "atempts = 3", 16, 'unknown name "atempts" in [retry.default]', '"attempts"'),
    ("[[upstream]]", "[[upstreams]]", 2, 'unknown name "upstreams" at the top', '"upstream"'),
    ("[[key]]", "[[keys]]", 5, 'unknown name "keys" at the top', '"key"'),
    ("default_model =", "defaultmodel =", 1, 'unknown name "defaultmodel"', '"default_model"'),
    ("[retry.default]\nattempts = 3", "[workers]\nconcurrency = 3", 15, 'unknown name "workers"', '"worker"'),
    (
        "attempts = 3",
        "attempts = 3\n[worker]\nthreads = 1",
        18,
        'unknown name "threads" in [worker]',
        "concurrency",
    ),
    # what belongs to the environment
    (
        "default_model =",
        'database_url = "x"\ndefault_model =',
        1,
        "does not belong into this file",
        "DATABASE_URL",
    ),
    (
        "default_model =",
        'admin_key = "x"\ndefault_model =',
        1,
        "does not belong into this file",
        "PENSTOCK_ADMIN_KEY",
    ),
    # missing
    ('upstream = "deepseek"\n', "", 5, '[[key]] lacks "upstream"', "upstream = ..."),
    ('name = "main"\n', "", 5, '[[key]] lacks "name"', "name = ..."),
    ('tiers = [["main"]]\n', "", 12, '[[model]]: lacks "tiers"', "tiers = ..."),
    ('base_url = "https://api.deepseek.com/v1"\n', "", 2, '[[upstream]] lacks "base_url"', "base_url = ..."),
    # wrong types and ranges
    ("rpm = 600", 'rpm = "600"', 11, "rpm: must be a valid number", "without quotes"),
    ("rpm = 600", "rpm = true", 11, "rpm: must be a valid number", "without quotes"),
    ("rpm = 600", "rpm = 0", 11, "rpm: must be greater than 0", "inside this range"),
    ("rpm = 600", "rpm = -5", 11, "rpm: must be greater than 0", "inside this range"),
    ("rpm = 600", "rpm = inf", 11, "rpm: must be a finite number", "number that ends"),
    ("rpm = 600", "rpm = nan", 11, "rpm: must be", ""),
    ("rpm = 600", "concurrency = 1.5", 11, "concurrency: must be a valid integer", "whole number"),
    (
        "rpm = 600",
        "concurrency = 0",
        11,
        "concurrency: must be greater than or equal to 1",
        "inside this range",
    ),
    (
        "rpm = 600",
        "rpm = 600\nburst = 0.5",
        12,
        "burst: must be greater than or equal to 1",
        "inside this range",
    ),
    (
        "rpm = 600",
        "rpm = 600\nburst = 600",
        9,
        "[[quota]]: has a burst that is not below its rpm",
        "lower burst",
    ),
    ("attempts = 3", "attempts = 0", 16, "attempts: must be greater than or equal to 1", "inside this range"),
    ("attempts = 3", "base = 9\ncap = 3", 15, "[retry.default]: has a cap below its base", "raise cap"),
    ("attempts = 3", 'jitter = "half"', 16, "jitter: must be 'full'", "fraction"),
    ("attempts = 3", "jitter = 2", 16, "jitter: must be", "fraction"),
    ('name = "deepseek"', "name = 7", 3, "name: must be a valid string", "in quotes"),
    ('name = "deepseek"', 'name = ""', 3, "name: String should have at least 1 character", ""),
    (
        'name = "deepseek"',
        'name = " deepseek"',
        3,
        "name: must not begin or end with a space",
        "take them out",
    ),
    ('name = "main"', 'name = "ma:in"', 6, "name: must not hold a colon", "- or ."),
    ('name = "main"', 'name = "ma\\nin"', 6, "control characters", "take them out"),
    ('name = "main"', 'name = "ma|in"', 6, 'name: must not hold "|"', "- or ."),
    ('name = "main"', 'name = "ma,in"', 6, "name: must not hold a comma", "- or ."),
    ('name = "deepseek"', 'name = "deep|seek"', 3, 'name: must not hold "|"', "- or ."),
    ('[["main"]]', '["main"]', 14, "tiers: must be a valid tuple", "lists of key names"),
    ('[["main"]]', "[]", 14, "tiers: ", ""),
    ('[["main"]]', "[[]]", 14, "tiers: ", ""),
    ("https://api.deepseek.com/v1", "api.deepseek.com/v1", 4, "base_url: must be a full", "https://"),
    ("https://api.deepseek.com/v1", "ftp://h/v1", 4, "base_url: must be a full", "https://"),
    ("https://api.deepseek.com/v1", "https://h/v1?key=1", 4, "base_url: must not hold ?", "path"),
    ('name = "deepseek"', 'name = "deepseek"\nmin_tls = "1.1"', 4, "min_tls: must be '1.2' or '1.3'", ""),
    ('name = "deepseek"', 'name = "deepseek"\ntimeout = 0', 4, "timeout: must be greater than 0", ""),
    ("[[upstream]]\n", "[upstream]\n", 2, "upstream: must be a valid tuple", "[[upstream]]"),
    ("[retry.default]\nattempts = 3", "retry = 5", 15, "", ""),
    # one of two
    ('account = "main"\n', "", 9, "[[quota]]: needs exactly one of account and key", "account ="),
    (
        'account = "main"\n',
        'account = "main"\nkey = "main"\n',
        9,
        "needs exactly one of account and key",
        "key =",
    ),
    # dangling names
    ('upstream = "deepseek"', 'upstream = "deepsek"', 7, 'no [[upstream]] named "deepsek"', '"deepseek"?'),
    ('upstream = "deepseek"', 'upstream = "xyz"', 7, 'no [[upstream]] named "xyz"', "name one of: deepseek"),
    ('account = "main"', 'account = "mian"', 10, 'no [[key]] has the account "mian"', '"main"?'),
    ('account = "main"', 'key = "mian"', 10, 'no [[key]] named "mian"', '"main"?'),
    ('[["main"]]', '[["main"], ["man:v3"]]', 14, 'no [[key]] named "man"', '"main"?'),
    ('default_model = "flash"', 'default_model = "flsh"', 1, 'no [[model]] named "flsh"', '"flash"?'),
    (
        '[["main"]]',
        '[["main"]]\nretry = "patient"',
        15,
        "there is no [retry.patient]",
        "name one of: default",
    ),
    # doubles
    (
        "[retry.default]",
        '[[model]]\nname = "flash"\ntiers = [["main"]]\n[retry.default]',
        16,
        "another [[model]]",
        "rename",
    ),
    (
        "[[quota]]",
        '[[upstream]]\nname = "deepseek"\nbase_url = "http://h"\n[[quota]]',
        10,
        "another [[upstream]]",
        "",
    ),
    (
        "rpm = 600",
        'model = "deepseek-v4"\nrpm = 600',
        11,
        'never asked for "deepseek-v4", so that this would limit nothing',
        "own name of the model: flash",
    ),
    (
        "[[model]]",
        '[[quota]]\naccount = "main"\ntpm = 5\n[[model]]',
        12,
        'another [[quota]] of "main"',
        "one of them",
    ),
    ('[["main"]]', '[["main", "main:flash"]]', 14, "twice in one tier", "weight"),
    # secrets
    ('"env:KEY"', '"sk-hunter2"', 8, "secret: must say where the secret is", "env:NAME"),
    ('"env:KEY"', '"vault:hunter2"', 8, "secret: must say where the secret is", "env:NAME"),
    ('"env:KEY"', '"env:"', 8, "secret: must say where the secret is", "env:NAME"),
    (
        "https://api",
        "https://u:hunter2@api",
        4,
        "base_url: must not hold a name or password",
        "secret of a [[key]]",
    ),
    # callbacks, api, worker
    ("attempts = 3", '[callbacks]\nallow_networks = ["10.1.2.3/16"]', 17, "bits set beyond", "10.1.0.0/16"),
    ("attempts = 3", '[callbacks]\nallow_networks = ["localhost"]', 17, "must be a network", "10.1.0.0/16"),
    ("attempts = 3", "[callbacks]\ntimeout = 900", 17, "timeout: must be less than or equal to 30", ""),
    ("attempts = 3", '[callbacks]\nports = ["http"]', 17, "must be a port or a range", '"8000-9000"'),
    ("attempts = 3", '[callbacks]\nports = ["9000-8000"]', 17, "the lower port first", '"8000-9000"'),
    ("attempts = 3", "[api]\nwaiters = 3000", 16, "[api]: has no more threads than waiters", "raise threads"),
    ("attempts = 3", "[worker]\nconcurrency = 0", 17, "concurrency: must be greater than or equal to 1", ""),
    # not TOML
    ('name = "flash"', "name = flash", 13, "not TOML", "write it as TOML"),
    ("[[model]]", "[[model]", 12, "not TOML", "write it as TOML"),
    ("attempts = 3", "attempts = 3\nattempts = 4", 17, "not TOML", "write it as TOML"),
    ("attempts = 3", 'attempts = """', 17, "not TOML", "write it as TOML"),
]


@pytest.mark.parametrize(("old", "new", "line", "said", "hint"), REFUSALS)
def test_a_fault_is_refused_with_its_line_and_its_mend(
    tmp_path: Path, old: str, new: str, line: int, said: str, hint: str
) -> None:
    error = refused(tmp_path, changed(old, new))
    assert said in error.message
    assert hint in error.hint
    assert error.line == line
    assert str(error) == f"{tmp_path / 'penstock.toml'}:{line}: {error.message}; hint: {error.hint}"
    assert "hunter2" not in str(error)
    assert error.__cause__ is None or "hunter2" not in str(error.__cause__)


def test_the_first_of_several_faults_is_told(tmp_path: Path) -> None:
    text = (
        changed("rpm = 600", "rpm = 0")
        .replace("attempts = 3", "attempts = 0")
        .replace("[[upstream]]", "[[upstream]]\nx=1")
    )
    assert refused(tmp_path, text).line == 3


def test_a_file_that_is_not_there_is_an_error_when_it_was_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.toml: cannot be read .*; hint: correct the path"):
        load_settings(tmp_path / "nowhere.toml", {})


def test_a_file_that_is_not_utf_8_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "penstock.toml"
    file.write_bytes(b'# one\n# two\nname = "\xff"\n')
    with pytest.raises(ConfigError, match=r"penstock.toml:3: this is not UTF-8"):
        load_settings(file, {})


@pytest.mark.parametrize("key", ["a", " ", "short", "x" * 23, " " * 40])
def test_an_administrators_key_that_could_be_guessed_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="openssl rand"):
        load_settings(None, {"PENSTOCK_ADMIN_KEY": key})
