"""What tables show on a narrow terminal, in a pipe, and of words that look like markup."""

from __future__ import annotations

import pytest

from app.cli.tables import new_table, print_tables

KEYS = ("siliconflow-account-1", "siliconflow-account-2")
WHY = "paused by an operator: " + "for a long time and for many reasons " * 6


def printed(capsys: pytest.CaptureFixture[str], *rows: tuple[str, ...], width: int | None = None) -> str:
    shown = new_table("key", "upstream", "why")
    for row in rows:
        shown.add_row(*row)
    print_tables(shown, new_table("nothing"), width=width)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [80, None])
def test_names_are_whole_however_long_the_rest(capsys: pytest.CaptureFixture[str], width: int | None) -> None:
    rows = [(key, "an-upstream-with-a-name-of-its-own", WHY) for key in KEYS]
    text = printed(capsys, *rows, width=width)
    assert all(key in text for key in KEYS)
    assert "…" not in text
    if width is None:  # a pipe: one line for each row
        assert len(text.splitlines()) == 3
        assert text.count(WHY.strip()) == 2


def test_words_in_brackets_are_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no [[key]] of [red]that[/] name [/end]" in printed(
        capsys, ("k", "u", "no [[key]] of [red]that[/] name [/end]")
    )
