"""What `penstock init` writes loads, whatever was chosen."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from app.cli.failure import CommandFailure
from app.cli.first_configuration import NO_KEY_NEEDED, configuration_text, presets
from app.cli.init import ProviderOptions, choose
from app.settings import Settings, load_settings
from app.settings.topology import build_topology

WANTED = {
    "deepseek", "siliconflow", "modelscope", "bailian", "tencent", "tencent-ti", "volcengine", "huawei", "aws",
    "openrouter", "huggingface", "node", "vllm", "ollama", "gateway",
}  # fmt: skip


def loaded(tmp_path: Path, *names: str, **given: tuple[str, ...]) -> Settings:
    file = tmp_path / "penstock.toml"
    file.write_text(configuration_text(choose(names, ProviderOptions(**given))), encoding="utf-8")
    return load_settings(file, {})


def test_every_provider_of_the_list_is_there_with_its_day_and_its_page() -> None:
    assert set(presets()) == WANTED
    for preset in presets().values():
        assert date(2025, 1, 1) <= preset.date <= date(2027, 12, 31)
        assert preset.docs.startswith("https://")
        assert bool(preset.base_url) != bool(preset.address)


@pytest.mark.parametrize("name", sorted(WANTED))
def test_each_gives_a_configuration_that_loads(tmp_path: Path, name: str) -> None:
    preset = presets()[name]
    given = {
        "base_urls": () if preset.base_url else ("https://node.example/v1",),
        "models": () if preset.models else ("llama3=llama3:8b",),
    }
    settings = loaded(tmp_path, name, **given)
    (upstream,), (key,) = settings.upstreams, settings.keys
    assert upstream.base_url == (preset.base_url or "https://node.example/v1")
    assert upstream.min_tls == ("1.3" if upstream.base_url.startswith("https:") else None)
    assert key.secret == (f"env:{preset.secret}" if preset.secret else NO_KEY_NEEDED)
    routes = build_topology(settings).models
    served = {model: tiers[0][0].upstream_model for model, tiers in routes.items()}
    assert served == (dict(preset.models) or {"llama3": "llama3:8b"})
    assert settings.default_model in served
    assert {quota.model for quota in settings.quotas} <= set(served.values())


def test_a_model_that_two_have_is_served_by_the_first_and_falls_to_the_second(tmp_path: Path) -> None:
    keys = ("deepseek=env:A", "siliconflow=env:B", "siliconflow=env:C")
    settings = loaded(tmp_path, "deepseek", "siliconflow", keys=keys)
    model = next(one for one in settings.models if one.name == "deepseek-v4-pro")
    assert [[tuple(route) for route in tier] for tier in model.routes()] == [
        [("deepseek", "deepseek-v4-pro")],
        [("siliconflow-1", "deepseek-ai/DeepSeek-V4-Pro"), ("siliconflow-2", "deepseek-ai/DeepSeek-V4-Pro")],
    ]
    assert settings.default_model == "deepseek-flash"
    assert {key.secret for key in settings.keys} == {"env:A", "env:B", "env:C"}


def test_limits_that_are_told_hold_for_each_account(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "tencent", keys=("env:A", "env:B"))
    told = {(quota.account, quota.model): (quota.rpm, quota.tpm) for quota in settings.quotas}
    assert told[("tencent-2", "deepseek-v3.2")] == (15_000, 1_200_000)
    assert len(told) == 4


def test_the_text_says_what_it_is_by_comments(tmp_path: Path) -> None:
    text = configuration_text(choose(["siliconflow"], ProviderOptions()))
    assert "# --- SiliconFlow, as of 2026-11-21. https://docs.siliconflow.cn" in text
    assert "Penstock estimates them" in text


@pytest.mark.parametrize(
    ("names", "given", "said"),
    [
        (["nope"], ProviderOptions(), "Known presets: deepseek"),
        (["node"], ProviderOptions(models=("m",)), "--base-url node=https://HOST/v1"),
        (["vllm"], ProviderOptions(), "--model vllm=MODEL"),
        (["deepseek", "aws"], ProviderOptions(keys=("env:A",)), "--key deepseek=..."),
        (["deepseek"], ProviderOptions(keys=("sk-hunter2",)), "env:NAME"),
    ],
)
def test_what_is_missing_is_said_with_the_option_that_gives_it(
    names: list[str], given: ProviderOptions, said: str
) -> None:
    with pytest.raises(CommandFailure) as caught:
        choose(names, given)
    assert said in str(caught.value.hint)
    assert "hunter2" not in f"{caught.value.message}{caught.value.hint}"


def test_a_preset_given_twice_makes_two_upstreams_of_equal_rank(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        *("node", "node"),
        base_urls=("https://paris.example/v1", "https://tokyo.example/v1"),
        keys=("env:PARIS", "env:TOKYO"),
        models=("llama3",),
    )
    assert [(one.name, one.base_url) for one in settings.upstreams] == [
        ("node-1", "https://paris.example/v1"),
        ("node-2", "https://tokyo.example/v1"),
    ]
    assert [(one.name, one.upstream, one.secret) for one in settings.keys] == [
        ("node-1", "node-1", "env:PARIS"),
        ("node-2", "node-2", "env:TOKYO"),
    ]
    assert [[route.key for route in tier] for tier in settings.models[0].routes()] == [["node-1", "node-2"]]


def test_twelve_addresses_of_one_preset_are_twelve_upstreams_with_one_key(tmp_path: Path) -> None:
    addresses = tuple(f"https://city{number}.example/v1" for number in range(12))
    settings = loaded(tmp_path, "node", base_urls=addresses, keys=("env:NODE",), models=("llama3",))
    assert [one.base_url for one in settings.upstreams] == list(addresses)
    assert {one.secret for one in settings.keys} == {"env:NODE"}


def test_one_of_several_may_be_named_and_others_stay_a_fallback(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        *("node", "deepseek", "node"),
        base_urls=("node=https://a.example/v1", "node=https://b.example/v1"),
        keys=("node=env:ALL", "node-2=env:B1", "node-2=env:B2", "deepseek=env:D"),
        models=("node=deepseek-v4-pro", "node-2=only-there"),
    )
    assert [one.name for one in settings.keys] == ["node-1", "node-2-1", "node-2-2", "deepseek"]
    routes = {one.name: [[route.key for route in tier] for tier in one.routes()] for one in settings.models}
    assert routes["deepseek-v4-pro"] == [["node-1", "node-2-1", "node-2-2"], ["deepseek"]]
    assert routes["only-there"] == [["node-2-1", "node-2-2"]]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"keys": ("env:A", "env:B")}, "--key is given 2 times for 3 of node"),
        (
            {"base_urls": ("https://a.example/v1", "https://b.example/v1")},
            "--base-url is given 2 times for 3",
        ),
    ],
)
def test_values_that_do_not_go_round_are_refused(
    tmp_path: Path, given: dict[str, tuple[str, ...]], said: str
) -> None:
    usual = {"base_urls": ("https://a.example/v1",), "models": ("m",), "keys": ("env:A",)}
    with pytest.raises(CommandFailure, match=said):
        loaded(tmp_path, *["node"] * 3, **{**usual, **given})
