"""The configuration: what loads, from file and environment; and the example that operators copy."""

import tomllib
from pathlib import Path

import pytest

from app.settings import RetrySettings, RouteSettings, Settings, load_settings
from app.settings.values import Section
from tests.settings.configurations import BASE, changed, load, refused

EXAMPLE = Path(__file__).parents[2] / "deploy" / "penstock.example.toml"


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
        ("main", RouteSettings("main", "flash")),
        ("main:deepseek-ai/DeepSeek-V3", RouteSettings("main", "deepseek-ai/DeepSeek-V3")),
        ("main:llama3:8b", RouteSettings("main", "llama3:8b")),
        ("main:", RouteSettings("main", "flash")),
    ],
)
def test_a_tier_is_split_at_its_first_colon(tmp_path: Path, reference: str, route: RouteSettings) -> None:
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
    ("name", "value", "hint"),
    [
        ("DATABASE_URL", "mysql://u:hunter2@h/db", "postgresql://"),
        ("REDIS_URL", "h:6379", "redis://"),
        ("REDIS_URL", "amqp://u:hunter2@h", "redis://"),
        ("REDIS_URL", "sentinel://u:hunter2@h:26379/mymaster", "follows the primary"),
    ],
)
def test_a_wrong_address_in_the_environment_names_its_variable_only(
    tmp_path: Path, name: str, value: str, hint: str
) -> None:
    error = refused(tmp_path, BASE, **{name: value})
    assert error.file == name
    assert hint in error.hint
    assert "hunter2" not in str(error)


def test_no_repr_shows_what_the_environment_holds(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        BASE,
        DATABASE_URL="postgresql://u:hunter2@h/db",
        REDIS_URL="redis://:hunter2@h",
        PENSTOCK_ADMIN_KEY="pk_hunter2hunter2hunter2hunter2",
    )
    assert settings.admin_key is not None
    assert settings.admin_key.get_secret_value() == "pk_hunter2hunter2hunter2hunter2"
    assert "hunter2" not in repr(settings) + str(settings)


# The example that operators copy


def test_the_example_loads() -> None:
    assert load_settings(EXAMPLE, {}).models[0].routes() == ((("deepseek-main", "deepseek-flash"),),)


# In place of evidence; without a bound unless set.
_LEFT_OUT = {"breaker": {"share", "calls", "within", "in_a_row"}, "retry": {"refusals", "timeout"}}


def test_the_example_shows_every_setting() -> None:
    shown = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    # Of a quota, in place of account; of a model, in place of tiers; of the pace, in place of slow.
    optional = {"key", "tier", "slow_times"}
    for table, section in _tables().items():
        found = shown[table][0] if isinstance(shown[table], list) else shown[table]
        found = found["default"] if table == "retry" else found
        in_place = _LEFT_OUT.get(table, set())
        assert set(section.model_fields) - set(found) - optional - in_place == set(), (
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
