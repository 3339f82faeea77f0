"""Writes the generated part of docs/performance.md, between its markers, from the records in results/."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.frame import FOLDER, RESULTS, Aim, Record, Table, load, machine, markdown

PAGE = FOLDER.parent / "docs" / "performance.md"
BEGIN, END = "<!-- figures: begin (make bench writes what stands here) -->", "<!-- figures: end -->"
_WORDS = {True: "reached", False: "missed", None: ""}


def write_page(names: Sequence[str], page: Path = PAGE, results: Path = RESULTS) -> None:
    """Put what is kept into the page, in the order of `names`; what stands around the markers is left as it is."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page}: there are no markers to write between")
    records = [load(path) for name in names if (path := results / f"{name}.json").exists()]
    page.write_text(f"{before}{BEGIN}\n\n{figures(records)}\n{END}{after}", encoding="utf-8")


def figures(records: Sequence[Record]) -> str:
    """The generated part: all aims in one table, then each benchmark's own tables."""
    if not records:
        return "Nothing has been measured yet.\n"
    day = time.strftime("%Y-%m-%d", time.gmtime(max(record.at for record in records)))
    quick = [record.name for record in records if record.quick]
    head = f"Measured on {day}: {machine()}."
    if quick:
        head += f" Small sizes (`--quick`): {', '.join(quick)}."
    rows = [_row(aim) for record in records for aim in record.aims]
    parts = [head]
    if rows:
        parts.append(markdown(Table("", ("measure", "against", "aim", "found", ""), rows)))
    parts += [_section(record) for record in records]
    return "\n\n".join(parts) + "\n"


def _row(aim: Aim) -> list[str]:
    cells = (aim.measure, aim.against, aim.aim, aim.found, _WORDS[aim.met])
    return [cell.replace("|", "\\|") for cell in cells]


def _section(record: Record) -> str:
    lines = [f"### {record.title}", f"`make bench-{record.name}`, {record.seconds:.0f} s."]
    if record.settings:
        lines.append("\n".join(f"- {setting}" for setting in record.settings))
    lines += [f"{table.title}:\n\n{markdown(table)}" for table in record.tables]
    if record.printed.strip():
        lines.append(f"```\n{record.printed.rstrip()}\n```")
    return "\n\n".join(lines)
