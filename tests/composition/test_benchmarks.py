"""The benchmarks' frame: the list loads, ratios and tables are right, the page is written between its markers."""

from pathlib import Path

import pytest

from benchmarks.frame import Aim, Record, Table, load, markdown, percentile, ratios, spread
from benchmarks.page import BEGIN, END, figures, write_page
from benchmarks.run import benchmarks, first_line


def test_every_benchmark_says_what_it_measures() -> None:
    found = benchmarks()
    assert {"drain", "throughput"} <= set(found)
    assert all(first_line(path) for path in found.values())


def test_a_spread_tells_median_least_and_most() -> None:
    assert spread([0.9, 0.7, 0.8]) == "0.80 (0.70 to 0.90)"
    assert spread([1.0]) == "1.00"


def test_ratios_compare_round_by_round() -> None:
    assert ratios([2.0, 9.0], [4.0, 3.0]) == [0.5, 3.0]


@pytest.mark.parametrize(("part", "value"), [(0.5, 50), (0.99, 99), (1.0, 100)])
def test_a_percentile_is_one_of_the_values(part: float, value: int) -> None:
    assert percentile(list(range(1, 101)), part) == value


def test_a_table_is_aligned_markdown() -> None:
    table = Table("", ["name", "n"], [["a", "1"], ["long name", "22"]])
    assert markdown(table).splitlines() == [
        "| name      | n  |",
        "|-----------|----|",
        "| a         | 1  |",
        "| long name | 22 |",
    ]


def test_a_record_comes_back_as_it_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.frame.RESULTS", tmp_path)
    record = Record("drain", "Drain", settings=["two workers"])
    record.aim("drain", "ideal", "1.03", "1.01", met=True)
    record.table("rounds", ["a"], [[1]])
    record.save()
    assert load(tmp_path / "drain.json") == record


def test_the_page_keeps_what_stands_around_the_markers(tmp_path: Path) -> None:
    page, results = tmp_path / "page.md", tmp_path / "results"
    page.write_text(f"by hand\n{BEGIN}\nold figures\n{END}\nmore by hand\n")
    write_page(["drain"], page, results)
    text = page.read_text()
    assert text.startswith("by hand\n")
    assert text.endswith(f"{END}\nmore by hand\n")
    assert "old figures" not in text


def test_a_missed_aim_is_called_missed() -> None:
    record = Record("x", "X", aims=[Aim("speed", "a peer", "1.0", "0.5", met=False)])
    assert "| speed   | a peer  | 1.0 | 0.5   | missed |" in figures([record])


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no markers")
    with pytest.raises(ValueError, match="no markers"):
        write_page([], page, tmp_path)
