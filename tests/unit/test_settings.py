"""The configuration: what loads, and what is refused with file, line and mend."""

import tomllib
from pathlib import Path

import pytest

from app.settings import ConfigError, RetrySettings, Route, Settings, load_settings
from app.settings.values import Section

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
EXAMPLE = Path(__file__).parents[2] / "deploy" / "penstock.example.toml"


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


# What loads


def test_left_out_settings_have_their_documented_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path, BASE)
    upstream, key, quota, model = (
        settings.upstreams[0],
        settings.keys[0],
        settings.quotas[0],
        settings.models[0],
    )
    assert (upstream.timeout, upstream.connect_timeout, upstream.min_tls) == (600.0, 5.0, None)
    assert upstream.max_body == 32 * 1024 * 1024
    assert (key.account, key.weight) == ("main", 1.0)
    assert (quota.model, quota.burst, quota.tpm, quota.concurrency) == ("*", None, None, None)
    assert model.retry == "default"
    assert (settings.callbacks.allow_networks, settings.callbacks.timeout) == ((), 15.0)
    assert (settings.api.max_task_body, settings.api.max_batch_body) == (10 * 1024**2, 512 * 1024**2)
    assert (settings.worker.concurrency, settings.worker.drain_seconds) == (1000, 30.0)


def test_without_a_file_there_is_nothing_but_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(None, {})
    assert (settings.upstreams, settings.keys, settings.models, settings.path) == ((), (), (), None)
    assert settings.retry == {"default": RetrySettings(attempts=5, base=1.0, cap=32.0, jitter="full")}


def test_a_penstock_toml_in_the_working_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("penstock.toml").write_text(BASE)
    assert load_settings(None, {}).default_model == "flash"


def test_the_file_is_named_by_the_environment(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(BASE)
    assert (
        load_settings(None, {"PENSTOCK_CONFIG": str(tmp_path / "other.toml")}).path == tmp_path / "other.toml"
    )


def test_a_file_given_by_the_caller_goes_before_the_environment(tmp_path: Path) -> None:
    assert load(tmp_path, BASE, PENSTOCK_CONFIG="/nowhere.toml").default_model == "flash"


def test_default_retries_are_there_beside_named_ones_and_can_be_changed(tmp_path: Path) -> None:
    settings = load(tmp_path, BASE + "[retry.patient]\nattempts = 20\njitter = 0.1\n")
    assert settings.retry["default"].attempts == 3
    assert settings.retry["patient"] == RetrySettings(attempts=20, base=1.0, cap=32.0, jitter=0.1)


def test_whole_numbers_do_where_fractions_are_allowed(tmp_path: Path) -> None:
    settings = load(tmp_path, changed("rpm = 600", "rpm = 600\nburst = 10\ntpm = 200000\nconcurrency = 100"))
    quota = settings.quotas[0]
    assert (quota.rpm, quota.burst, quota.tpm, quota.concurrency) == (600.0, 10.0, 200000.0, 100)


@pytest.mark.parametrize(
    ("reference", "route"),
    [
        ("main", Route("main", "flash")),
        ("main:deepseek-ai/DeepSeek-V3", Route("main", "deepseek-ai/DeepSeek-V3")),
        ("main:llama3:8b", Route("main", "llama3:8b")),
        ("main:", Route("main", "flash")),
    ],
)
def test_a_tier_is_split_at_its_first_colon(tmp_path: Path, reference: str, route: Route) -> None:
    settings = load(tmp_path, changed('[["main"]]', f'[["{reference}"]]'))
    assert settings.models[0].routes() == ((route,),)


def test_tiers_keep_their_order(tmp_path: Path) -> None:
    more = '[[key]]\nname = "second"\nupstream = "deepseek"\nsecret = "file:/run/secrets/second"\n'
    settings = load(tmp_path, changed('[["main"]]', '[["main", "second"], ["second:v3"]]') + more)
    assert settings.models[0].routes() == ((("main", "flash"), ("second", "flash")), (("second", "v3"),))


def test_a_base_url_loses_its_trailing_slash(tmp_path: Path) -> None:
    assert (
        load(tmp_path, changed('.com/v1"', '.com/v1/"')).upstreams[0].base_url
        == "https://api.deepseek.com/v1"
    )


def test_names_may_hold_dots_slashes_and_chinese(tmp_path: Path) -> None:
    settings = load(tmp_path, BASE + '[[model]]\nname = "深度/求索-v3.1"\ntiers = [["main"]]\n')
    assert settings.models[1].name == "深度/求索-v3.1"


def test_a_byte_order_mark_from_windows_is_no_error(tmp_path: Path) -> None:
    assert load(tmp_path, "\ufeff" + BASE.replace("\n", "\r\n")).default_model == "flash"


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(tmp_path, BASE).worker.concurrency = 5  # type: ignore[misc]


# The environment


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgresql://u:p@h/db", "postgresql+psycopg://u:p@h/db"),
        ("postgres://h/db", "postgresql+psycopg://h/db"),
        ("postgresql+psycopg://h/db", "postgresql+psycopg://h/db"),
        ("sqlite:////var/lib/p.db", "sqlite:////var/lib/p.db"),
        ("", None),
    ],
)
def test_a_database_url_names_our_driver(tmp_path: Path, given: str, used: str | None) -> None:
    assert load(tmp_path, BASE, DATABASE_URL=given).database_url == used


def test_an_unset_environment_leaves_the_choice_to_the_start_command(tmp_path: Path) -> None:
    settings = load(tmp_path, BASE)
    assert (settings.database_url, settings.redis_url, settings.admin_key) == (None, None, None)


@pytest.mark.parametrize(
    ("name", "value", "mend"),
    [
        ("DATABASE_URL", "mysql://u:hunter2@h/db", "postgresql://"),
        ("REDIS_URL", "h:6379", "redis://"),
        ("REDIS_URL", "amqp://u:hunter2@h", "redis://"),
    ],
)
def test_a_wrong_address_in_the_environment_names_its_variable_only(
    tmp_path: Path, name: str, value: str, mend: str
) -> None:
    error = refused(tmp_path, BASE, **{name: value})
    assert error.file == name
    assert mend in error.mend
    assert "hunter2" not in str(error)


def test_no_repr_shows_what_the_environment_holds(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        BASE,
        DATABASE_URL="postgresql://u:hunter2@h/db",
        REDIS_URL="redis://:hunter2@h",
        PENSTOCK_ADMIN_KEY="pk_hunter2",
    )
    assert settings.admin_key is not None
    assert settings.admin_key.get_secret_value() == "pk_hunter2"
    assert "hunter2" not in repr(settings) + str(settings)


# What is refused. Each row: the change to BASE, the line, words of the message, words of the mend.

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
    ("attempts = 3", "[api]\nwaiters = 600", 16, "[api]: has no more threads than waiters", "raise threads"),
    ("attempts = 3", "[worker]\nconcurrency = 0", 17, "concurrency: must be greater than or equal to 1", ""),
    # not TOML
    ('name = "flash"', "name = flash", 13, "not TOML", "write it as TOML"),
    ("[[model]]", "[[model]", 12, "not TOML", "write it as TOML"),
    ("attempts = 3", "attempts = 3\nattempts = 4", 17, "not TOML", "write it as TOML"),
    ("attempts = 3", 'attempts = """', 17, "not TOML", "write it as TOML"),
]


@pytest.mark.parametrize(("old", "new", "line", "said", "mend"), REFUSALS)
def test_a_fault_is_refused_with_its_line_and_its_mend(
    tmp_path: Path, old: str, new: str, line: int, said: str, mend: str
) -> None:
    error = refused(tmp_path, changed(old, new))
    assert said in error.message
    assert mend in error.mend
    assert error.line == line
    assert str(error) == f"{tmp_path / 'penstock.toml'}:{line}: {error.message}; mend: {error.mend}"
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
    with pytest.raises(ConfigError, match=r"nowhere.toml: cannot be read .*; mend: correct the path"):
        load_settings(tmp_path / "nowhere.toml", {})


def test_a_file_that_is_not_utf_8_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "penstock.toml"
    file.write_bytes(b'# one\n# two\nname = "\xff"\n')
    with pytest.raises(ConfigError, match=r"penstock.toml:3: this is not UTF-8"):
        load_settings(file, {})


# The example that operators copy


def test_the_example_loads() -> None:
    assert load_settings(EXAMPLE, {}).models[0].routes() == ((("deepseek-main", "deepseek-flash"),),)


def test_the_example_shows_every_setting() -> None:
    shown = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    # Of a quota, in place of account; of a model, in place of tiers; of the pace, in place of slow.
    optional = {"key", "tier", "slow_times"}
    for table, section in _tables().items():
        found = shown[table][0] if isinstance(shown[table], list) else shown[table]
        found = found["default"] if table == "retry" else found
        assert set(section.model_fields) - set(found) - optional == set(), (
            f"[{table}] of the example is incomplete"
        )


def _tables() -> dict[str, type[Section]]:
    from app import settings as s

    return {
        "upstream": s.UpstreamSettings,
        "key": s.KeySettings,
        "quota": s.QuotaSettings,
        "model": s.ModelSettings,
        "retry": s.RetrySettings,
        "learning": s.LearningSettings,
        "breaker": s.BreakerSettings,
        "pace": s.PaceSettings,
        "callbacks": s.CallbackSettings,
        "api": s.ApiSettings,
        "worker": s.WorkerSettings,
    }


def test_the_example_gives_the_defaults_where_there_are_any() -> None:
    example = load_settings(EXAMPLE, {})
    assert example.retry == Settings().retry
    assert (example.learning, example.breaker, example.pace) == (
        Settings().learning,
        Settings().breaker,
        Settings().pace,
    )
    assert (example.callbacks, example.api, example.worker) == (
        Settings().callbacks,
        Settings().api,
        Settings().worker,
    )
