"""The way to an upstream: proxies, headers, authorities and regions, as they may be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.settings import ConfigError, Settings, load_settings
from app.settings.topology import keys_of_regions

UPSTREAM = '[[upstream]]\nname = "u"\nbase_url = "https://u.example/v1"\n'
REGIONS = """\
[[upstream]]
name = "home"
base_url = "https://home.example/v1"
[[upstream]]
name = "edge"
base_url = "http://10.8.0.7:8000/v1"
region = "eu"
bound = true
[[upstream]]
name = "west"
base_url = "https://west.example/v1"
region = "us"
[[key]]
name = "k"
upstream = "home"
secret = "env:K"
[[key]]
name = "e"
upstream = "edge"
secret = "env:E"
[[key]]
name = "w"
upstream = "west"
secret = "env:W"
"""


def load(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "penstock.toml"
    file.write_text(text, encoding="utf-8")
    return load_settings(file, {})


def test_a_way_is_taken_as_written(tmp_path: Path) -> None:
    more = 'proxy = "http://proxy.internal:3128/"\nproxy_auth = "file:/run/auth"\nheaders = { X-Title = "a b" }\n'
    upstream = load(tmp_path, UPSTREAM + more).upstreams[0]
    assert (upstream.proxy, upstream.proxy_auth) == ("http://proxy.internal:3128", "file:/run/auth")
    assert upstream.headers == {"X-Title": "a b"}


@pytest.mark.parametrize("scheme", ["http", "https", "socks5", "socks5h"])
def test_proxies_of_every_supported_scheme_are_taken(tmp_path: Path, scheme: str) -> None:
    settings = load(tmp_path, UPSTREAM + f'proxy = "{scheme}://edge.example:8443/"\n')
    assert settings.upstreams[0].proxy == f"{scheme}://edge.example:8443"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('proxy = "ftp://proxy:3128"', "http://, https://, socks5://, socks5h://"),
        ('proxy = "socks4://proxy:1080"', "http://, https://, socks5://, socks5h://"),
        ('proxy = "proxy:3128"', "the address of a proxy, with a port"),
        ('proxy = "http://proxy"', "the address of a proxy, with a port"),
        ('proxy = "http://proxy:nine"', "the address of a proxy, with a port"),
        ('proxy = "socks5://ann:hunter2@proxy:1080"', "must not hold a name or password"),
        ('proxy = "http://ann:hunter2@proxy:3128"', "must not hold a name or password"),
        ('proxy = "http://proxy:3128/path"', "must not hold a path"),
        ('proxy_auth = "env:A"', "a proxy_auth without a proxy"),
        ('proxy = "http://proxy:1"\nproxy_auth = "ann:hunter2"', "must say where the secret is"),
        ('headers = { authorization = "Bearer hunter2" }', "must not set authorization"),
        ('headers = { "Content-Length" = "1" }', "must not set Content-Length"),
        ('headers = { "X Y" = "1" }', "a name that no header can have"),
        ('headers = { "X-Y" = "a\\nX-Evil: b" }', "a value that no header can have"),
        ('headers = { "X-Y" = "" }', "a value that no header can have"),
        ("bound = true", "is bound to no region"),
    ],
)
def test_a_way_that_cannot_be_is_refused_without_showing_a_secret(
    tmp_path: Path, more: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, UPSTREAM + more + "\n")
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_authorities_make_no_sense_without_tls(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no https address"):
        load(tmp_path, UPSTREAM.replace("https", "http") + 'ca_file = "ca.pem"\n')


def test_a_worker_that_is_told_nothing_calls_all_but_what_is_bound(tmp_path: Path) -> None:
    assert load(tmp_path, REGIONS).open_keys == ("k", "w")


def test_a_regions_worker_calls_what_is_there_and_nothing_else(tmp_path: Path) -> None:
    settings = load(tmp_path, REGIONS)
    assert keys_of_regions(settings, ["eu"]) == ("e",)
    assert keys_of_regions(settings, ["us", "eu"]) == ("e", "w")


def test_a_region_without_a_key_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='no key is in the region "asia"') as caught:
        keys_of_regions(load(tmp_path, REGIONS), ["asia"])
    assert "eu, us" in caught.value.hint
