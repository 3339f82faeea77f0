"""Adding up what was used: exactly, by heading, currencies apart."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.billing.domain.usage import (
    FIGURES,
    Heading,
    UsageEntry,
    UsageFigures,
    as_columns,
    call_figures,
    day_of,
    fold_free,
    from_columns,
    merge,
)
from app.platform.domain.money import CallCost
from app.tasks.domain.attempt import TokenUsage

figures = st.builds(UsageFigures, **{name: st.integers(0, 10**15) for name in FIGURES})
headings = st.builds(
    Heading,
    day=st.sampled_from(["2026-11-20", "2026-11-21"]),
    client_id=st.sampled_from(["alice", "bob"]),
    model=st.sampled_from(["a", "b"]),
    key=st.sampled_from(["", "k1"]),
    currency=st.sampled_from(["", "USD", "CNY"]),
)
entries = st.lists(st.builds(UsageEntry, headings, figures), max_size=20)


@given(entries)
def test_merging_loses_and_adds_nothing(given_entries: list[UsageEntry]) -> None:
    merged = merge(given_entries)
    assert len({entry.heading for entry in merged}) == len(merged)
    for name in FIGURES:
        before = sum(getattr(entry.figures, name) for entry in given_entries)
        assert sum(getattr(entry.figures, name) for entry in merged) == before


@given(entries)
def test_money_of_two_currencies_is_never_added(given_entries: list[UsageEntry]) -> None:
    for currency in ("", "USD", "CNY"):
        before = sum(e.figures.cost for e in given_entries if e.heading.currency == currency)
        after = sum(e.figures.cost for e in merge(given_entries) if e.heading.currency == currency)
        assert before == after


@given(entries)
def test_an_entry_reads_back_as_what_it_was(given_entries: list[UsageEntry]) -> None:
    assert [from_columns(as_columns(entry)) for entry in given_entries] == given_entries


def test_a_call_at_an_unknown_price_is_counted_as_such() -> None:
    used = call_figures(TokenUsage(10, 5, 2, 1), None, succeeded=True)
    assert (used.unpriced_calls, used.cost, used.prompt_tokens, used.calls, used.tasks) == (1, 0, 10, 1, 1)


def test_a_refused_call_used_nothing_and_is_not_unpriced() -> None:
    assert call_figures(None, None, succeeded=False) == UsageFigures(calls=1)


def test_a_priced_call_carries_its_cost_and_savings() -> None:
    used = call_figures(TokenUsage(10, 5), CallCost(7, "USD", 3, 2), succeeded=False)
    assert (used.cost, used.saved_prompt_cache, used.saved_off_peak, used.unpriced_calls) == (7, 3, 2, 0)


def test_a_day_is_a_day_of_utc() -> None:
    assert day_of(0.0) == "1970-01-01"
    assert day_of(1_795_219_199.9) == "2026-11-20"
    assert day_of(1_795_219_200.0) == "2026-11-21"


def row(model: str, currency: str, **figures: int) -> dict[str, Any]:
    return {"model": model, "currency": currency, **dict.fromkeys(FIGURES, 0), **figures}


def test_what_cost_nothing_stands_in_the_line_of_its_group() -> None:
    rows = [row("m", "", calls=3), row("m", "USD", tasks=2, calls=2, cost=9), row("free", "", calls=1)]
    folded = fold_free(rows, ("model",))
    assert [(one["model"], one["currency"], one["calls"], one["cost"]) for one in folded] == [
        ("m", "USD", 5, 9),
        ("free", "", 1, 0),
    ]


def test_what_was_used_at_an_unknown_price_stays_apart() -> None:
    rows = [row("m", "", calls=3, unpriced_calls=1), row("m", "USD", calls=2, cost=9)]
    assert fold_free(rows, ("model",)) == rows


_drawn = st.tuples(st.sampled_from("ab"), st.sampled_from(["", "CNY", "USD"]), st.integers(0, 2))


@given(st.lists(_drawn, unique_by=lambda one: one[:2]))
def test_folding_keeps_all_sums(drawn: list[tuple[str, str, int]]) -> None:
    rows = [row(model, currency, calls=calls, tasks=1) for model, currency, calls in drawn]
    folded = fold_free(rows, ("model",))
    for name in FIGURES:
        assert sum(one[name] for one in folded) == sum(one[name] for one in rows)
    assert len({(one["model"], one["currency"]) for one in folded}) == len(folded)
