"""Tokens, prompt cache, prices, latency, balances: the figures that answers and bills are made of."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.balances import Balances
from simulator.latency import Latency, parse_latency
from simulator.prices import CHINESE_HOLIDAYS, DEEPSEEK_PRICES, is_peak, micro_usd
from simulator.prompt_cache import PromptCache, prefix_blocks
from simulator.tokens import count_tenths, count_tokens, cut_to_tokens, has_chinese, split_every

texts = st.text(alphabet="abc 中文。éñ🙂", max_size=400)


class TestTokens:
    def test_an_english_character_is_three_tenths_and_a_chinese_one_six(self) -> None:
        assert count_tokens("a" * 10) == 3
        assert count_tokens("水" * 10) == 6
        assert count_tokens("a" * 10 + "水" * 10) == 9

    def test_a_part_of_a_token_counts_as_one(self) -> None:
        assert [count_tokens(text) for text in ("", "a", "abcd")] == [0, 1, 2]

    @given(texts, st.integers(1, 20))
    def test_pieces_give_the_text_back_and_none_is_too_long(self, text: str, tokens: int) -> None:
        pieces = list(split_every(text, tokens))
        assert "".join(pieces) == text
        assert all(0 < count_tokens(piece) <= tokens for piece in pieces)

    @given(texts, st.integers(1, 20))
    def test_a_cut_text_is_the_longest_beginning_that_fits(self, text: str, tokens: int) -> None:
        cut = cut_to_tokens(text, tokens)
        assert text.startswith(cut)
        assert count_tokens(cut) <= tokens
        longer = text[: len(cut) + 1]
        assert longer == cut or count_tenths(longer) > 10 * tokens

    def test_accents_are_no_chinese(self) -> None:
        assert not has_chinese("déjà vu")
        assert has_chinese("déjà vu 水")


def remember(cache: PromptCache, account: str, model: str, prompt: str) -> None:
    cache.remember(prefix_blocks(account, model, prompt))


def hit_tokens(cache: PromptCache, account: str, model: str, prompt: str) -> int:
    return cache.hit_tokens(prefix_blocks(account, model, prompt))


class TestPromptCache:
    def test_a_repeated_prompt_hits_its_whole_blocks(self) -> None:
        cache, prompt = PromptCache(1000), "word " * 200  # 1,000 characters, 300 tokens
        assert hit_tokens(cache, "acme", "flash", prompt) == 0
        remember(cache, "acme", "flash", prompt)
        assert hit_tokens(cache, "acme", "flash", prompt) == 256

    def test_a_shared_beginning_hits_as_far_as_it_is_the_same(self) -> None:
        cache, system = PromptCache(1000), "You are a careful editor. " * 40  # 1,040 characters
        remember(cache, "acme", "flash", system + "one")
        assert hit_tokens(cache, "acme", "flash", system + "two, and more of it " * 30) == 256

    def test_a_difference_at_the_beginning_hits_nothing(self) -> None:
        cache = PromptCache(1000)
        remember(cache, "acme", "flash", "a" * 1000)
        assert hit_tokens(cache, "acme", "flash", "b" + "a" * 999) == 0

    def test_a_prompt_below_a_block_is_never_cached(self) -> None:
        cache = PromptCache(1000)
        remember(cache, "acme", "flash", "a" * 200)
        assert hit_tokens(cache, "acme", "flash", "a" * 200) == 0

    def test_a_stranger_and_another_model_hit_nothing(self) -> None:
        cache, prompt = PromptCache(1000), "水" * 500
        remember(cache, "acme", "flash", prompt)
        assert hit_tokens(cache, "acme", "flash", prompt) == 256
        assert hit_tokens(cache, "other", "flash", prompt) == 0
        assert hit_tokens(cache, "acme", "pro", prompt) == 0

    def test_the_oldest_blocks_are_forgotten(self) -> None:
        cache = PromptCache(4)
        remember(cache, "acme", "flash", "a" * 900)
        remember(cache, "acme", "flash", "b" * 900)
        assert hit_tokens(cache, "acme", "flash", "a" * 900) == 0
        assert hit_tokens(cache, "acme", "flash", "b" * 900) == 256

    def test_a_cache_of_nothing_is_off(self) -> None:
        cache = PromptCache(0)
        remember(cache, "acme", "flash", "a" * 900)
        assert hit_tokens(cache, "acme", "flash", "a" * 900) == 0

    @given(texts, texts)
    def test_hits_never_exceed_the_prompt(self, first: str, second: str) -> None:
        cache = PromptCache(1000)
        remember(cache, "acme", "flash", first * 3)
        assert hit_tokens(cache, "acme", "flash", second * 3) <= count_tokens(second * 3)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


class TestPrices:
    @pytest.mark.parametrize(
        ("utc", "peak"),
        [
            ("2026-11-23 00:59:59", False),  # a Monday
            ("2026-11-23 01:00:00", True),
            ("2026-11-23 03:59:59", True),
            ("2026-11-23 04:00:00", False),
            ("2026-11-23 06:00:00", True),
            ("2026-11-23 09:59:59", True),
            ("2026-11-23 10:00:00", False),
            ("2026-11-22 02:00:00", False),  # Sunday
            ("2026-10-01 02:00:00", False),  # National Day, a Thursday
        ],
    )
    def test_peak_hours_are_beijing_working_hours(self, utc: str, peak: bool) -> None:
        assert is_peak(at(utc)) is peak

    def test_a_call_is_billed_exactly(self) -> None:
        flash = DEEPSEEK_PRICES["deepseek-flash"]
        pico = flash.at("off-peak", 0, ()).cost_pico(64, 36, 50)
        assert pico == 64 * 3_000 + 36 * 150_000 + 50 * 600_000
        assert flash.at("peak", 0, ()).cost_pico(64, 36, 50) == 2 * pico

    def test_a_million_tokens_cost_the_price_in_the_list(self) -> None:
        pro = DEEPSEEK_PRICES["deepseek-v4-pro"].at("calendar", at("2026-11-23 02:00:00"), CHINESE_HOLIDAYS)
        assert micro_usd(pro.cost_pico(0, 1_000_000, 0)) == 1_320_000
        assert micro_usd(pro.cost_pico(1_000_000, 0, 0)) == 44_000
        assert micro_usd(pro.cost_pico(0, 0, 1_000_000)) == 3_960_000

    def test_micro_dollars_are_rounded_half_up(self) -> None:
        assert [micro_usd(pico) for pico in (499_999, 500_000, 1_499_999)] == [0, 1, 1]


class TestLatency:
    def test_each_form_is_read(self) -> None:
        assert parse_latency("0.2") == parse_latency("constant:0.2") == Latency(mean=0.2)
        assert parse_latency("uniform:0.1-0.5") == Latency("uniform", low=0.1, high=0.5)
        assert parse_latency("lognormal:1.0,0.5") == Latency("lognormal", mean=1.0, sigma=0.5)

    @pytest.mark.parametrize("text", ["", "fast", "uniform:0.5", "uniform:2-1", "lognormal:1", "constant:-1"])
    def test_anything_else_is_refused_with_the_forms(self, text: str) -> None:
        with pytest.raises(ValueError, match="write SECONDS"):
            parse_latency(text)

    def test_a_lognormal_has_the_mean_it_was_given(self) -> None:
        chance, latency = Random(1), Latency("lognormal", mean=2.0, sigma=0.5)
        assert fmean(latency.sample(chance) for _ in range(20_000)) == pytest.approx(2.0, rel=0.02)

    @given(st.integers())
    def test_a_uniform_one_stays_inside_its_bounds(self, seed: int) -> None:
        assert 0.1 <= Latency("uniform", low=0.1, high=0.5).sample(Random(seed)) <= 0.5

    def test_the_same_seed_gives_the_same_times(self) -> None:
        latency = Latency("lognormal", mean=1.0)
        first, second = Random("7:latency"), Random("7:latency")
        assert [latency.sample(first) for _ in range(5)] == [latency.sample(second) for _ in range(5)]


class TestBalances:
    def test_an_account_pays_until_it_has_nothing_left(self) -> None:
        balances = Balances({"acme": Decimal("0.01")})
        balances.spend("acme", 9_999_999_999)
        assert balances.available("acme")
        balances.spend("acme", 1)
        assert not balances.available("acme")
        assert balances.total("acme") == "0.00"

    def test_an_account_that_is_not_named_never_runs_out(self) -> None:
        balances = Balances({})
        balances.spend("acme", 10**30)
        assert balances.available("acme")

    def test_a_balance_can_be_filled_up(self) -> None:
        balances = Balances({"acme": Decimal(0)})
        balances.set({"acme": Decimal("12.345")})
        assert balances.total("acme") == "12.34"
