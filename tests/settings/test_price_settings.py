"""Prices and the cache in the configuration; the built-in lists; where the cache may be."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.billing.domain.pricing import Rates
from app.settings import ConfigError, Settings, load_settings, price_book
from app.settings.load import cache_address
from app.settings.price_lists import built_in, list_of
from app.tasks.domain.attempt import TokenUsage
from simulator.prices import DEEPSEEK_PRICES

BASE = """
[[upstream]]
name = "deepseek"
base_url = "https://api.deepseek.com/v1"
[[upstream]]
name = "local"
base_url = "http://127.0.0.1:11434/v1"
[[key]]
name = "main"
upstream = "deepseek"
secret = "env:K"
[[model]]
name = "flash"
tiers = [["main"]]
"""
NOVEMBER = datetime(2026, 11, 21, tzinfo=UTC).timestamp()


def load(folder: Path, text: str, **environ: str) -> Settings:
    file = folder / "penstock.toml"
    file.write_text(text)
    return load_settings(file, environ)


def refused(folder: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    return caught.value


def test_deepseeks_prices_are_built_in_and_go_by_its_address(tmp_path: Path) -> None:
    settings = load(tmp_path, BASE)
    book = price_book(settings, {"deepseek": lambda _: False})
    price = book.price("deepseek", "deepseek-flash", NOVEMBER)
    assert price is not None
    assert (price.currency, price.standard) == ("USD", Rates(3_000, 150_000, 600_000, 600_000))
    assert book.price("local", "deepseek-flash", NOVEMBER) is None


@pytest.mark.parametrize("model", list(DEEPSEEK_PRICES))
def test_the_built_in_list_agrees_with_the_simulated_upstreams_own(tmp_path: Path, model: str) -> None:
    theirs = DEEPSEEK_PRICES[model]
    usage = TokenUsage(1234, 567, cached_tokens=640, reasoning_tokens=89)
    for peak, rates in ((False, theirs.off_peak), (True, theirs.peak)):
        book = price_book(load(tmp_path, BASE), {"deepseek": lambda _, peak=peak: peak})
        cost = book.cost("deepseek", model, usage, NOVEMBER)
        assert cost is not None
        assert cost.picos == rates.cost_pico(640, 1234 - 640, 567)


def test_before_its_date_a_price_is_unknown(tmp_path: Path) -> None:
    book = price_book(load(tmp_path, BASE), {"deepseek": lambda _: False})
    assert book.price("deepseek", "deepseek-flash", datetime(2026, 8, 15, 23, tzinfo=UTC).timestamp()) is None
    assert book.price("deepseek", "deepseek-flash", datetime(2026, 8, 16, tzinfo=UTC).timestamp())


def test_an_upstream_may_name_a_list_or_none(tmp_path: Path) -> None:
    text = BASE.replace('11434/v1"', '11434/v1"\nprices = "deepseek"').replace(
        '.com/v1"', '.com/v1"\nprices = ""'
    )
    deepseek, local = load(tmp_path, text).upstreams
    assert (list_of(deepseek), list_of(local)) == (None, "deepseek")


def test_ones_own_price_goes_before_the_list_from_its_date_on(tmp_path: Path) -> None:
    own = """
[[price]]
upstream = "deepseek"
model = "deepseek-flash"
since = 2026-11-01
currency = "CNY"
miss = 1
output = 4.5
"""
    book = price_book(load(tmp_path, BASE + own), {"deepseek": lambda _: False})
    price = book.price("deepseek", "deepseek-flash", NOVEMBER)
    before = book.price("deepseek", "deepseek-flash", datetime(2026, 10, 31, tzinfo=UTC).timestamp())
    assert price is not None
    assert (price.currency, price.standard) == ("CNY", Rates(10**6, 10**6, 4_500_000, 4_500_000))
    assert before is not None
    assert before.currency == "USD"


PRICE = '[[price]]\nupstream = "deepseek"\nmodel = "m"\ncurrency = "USD"\nmiss = "1"\noutput = "2"\n'


@pytest.mark.parametrize(
    ("change", "to", "words"),
    [
        ('"1"', '"-1"', "not negative"),
        ('"1"', '"1e3"', "per million tokens"),
        ('"1"', "true", "must be a price"),
        ('"1"', '"0.0000001"', "six decimals"),
        ('"USD"', '"usd"', "three letters"),
        ('"deepseek"', '"depseek"', "there is no"),
        ('miss = "1"', 'miss = "1"\npeak = { miss = "2", output = "3" }', "peak and calendar together"),
        ('miss = "1"', 'miss = "1"\ncalendar = "deepseek"', "peak and calendar together"),
        ('model = "m"', 'model = "m"\nsince = "2026-08-16"', "since"),
    ],
)
def test_a_price_that_cannot_be_meant_is_refused_with_its_line(
    tmp_path: Path, change: str, to: str, words: str
) -> None:
    error = refused(tmp_path, BASE + PRICE.replace(change, to, 1))
    assert words in str(error)
    assert error.line is not None
    assert error.line > BASE.count("\n")


def test_a_list_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, BASE.replace('.com/v1"', '.com/v1"\nprices = "depseek"'))
    assert "depseek" in error.message
    assert "deepseek" in error.hint


def test_every_built_in_list_can_be_read() -> None:
    assert {"deepseek"} <= set(built_in())


def test_the_cache_has_sensible_bounds_unless_told(tmp_path: Path) -> None:
    cache = load(tmp_path, BASE).cache
    assert (cache.enabled, cache.ttl, cache.entries, cache.local_seconds) == (True, 86400, 100_000, 300)
    assert not cache.shared
    assert "longest_ttl" in str(refused(tmp_path, BASE + "[cache]\nttl = 700000\n"))


@pytest.mark.parametrize(
    ("cache", "broker"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://localhost", "redis://127.0.0.1:6379/0"),
        ("redis://:secret@h/2", "rediss://u:other@H:6379/2"),
        ("redis://h?db=3", "redis://h/3"),
    ],
)
def test_the_brokers_own_database_is_refused_for_the_cache(cache: str, broker: str) -> None:
    with pytest.raises(ConfigError, match="CACHE_URL") as caught:
        cache_address(cache, broker)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("cache", "broker"),
    [
        ("redis://h/1", "redis://h/0"),
        ("redis://h:6380", "redis://h"),
        ("redis://a", "redis://b"),
        ("redis://a", None),
    ],
)
def test_another_server_or_database_is_taken(cache: str, broker: str | None) -> None:
    assert cache_address(cache, broker) == cache


def test_the_environment_says_where_the_cache_is(tmp_path: Path) -> None:
    assert load(tmp_path, BASE, CACHE_URL="").cache_url is None
    assert load(tmp_path, BASE, CACHE_URL="redis://h/1", REDIS_URL="redis://h/0").cache_url == "redis://h/1"
    with pytest.raises(ConfigError, match="CACHE_URL"):
        load(tmp_path, BASE, CACHE_URL="http://h")
