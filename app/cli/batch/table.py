"""A table out of a text file: CSV with any delimiter. Raises Failure that names the row."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass

from app.cli.batch.text_file import TextFile
from app.cli.failure import CommandFailure

Row = tuple[int, dict[str, str]]  # its number, the head being 1, and its cells by their columns

_DELIMITERS = ",;\t|"
_LONGEST_CELL = 2**31 - 1  # characters; csv's own limit is 131,072
_NAME = re.compile(r"[\w .-]{1,40}")
_OPEN_QUOTE = "unexpected end of data"


@dataclass(frozen=True, slots=True)
class Table:
    """A file with a head and rows below it. `delimiter`: "" for the one that its head shows."""

    text: TextFile
    delimiter: str = ""

    def columns(self) -> list[str]:
        """The names in its head. Raises Failure."""
        return next((columns for columns, _ in self._read()), [])

    def rows(self) -> Iterator[Row]:
        """Its rows; blank ones are left out. Raises Failure."""
        for number, (columns, cells) in enumerate(self._read(), 1):
            if number == 1 or not any(cell.strip() for cell in cells):
                continue
            while len(cells) > len(columns) and not cells[-1].strip():
                cells.pop()
            if len(cells) != len(columns):
                words = f"has {len(cells)} columns, the head has {len(columns)}"
                raise CommandFailure(f"{self.text.label}, row {number}: {words}", _hint(columns))
            yield number, dict(zip(columns, cells, strict=True))

    def _read(self) -> Iterator[tuple[list[str], list[str]]]:
        """The head's columns with the cells of each row, the head's own first."""
        csv.field_size_limit(_LONGEST_CELL)
        number, columns = 1, list[str]()
        with self.text.open("") as file:
            delimiter = self.delimiter or _delimiter(self.text.head())
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            try:
                for cells in filter(None, reader):
                    columns = columns or self._columns(cells)
                    yield columns, cells
                    number += 1
            except csv.Error as error:
                raise self._broken(number, error) from None

    def _columns(self, cells: list[str]) -> list[str]:
        names = [cell.strip() for cell in cells]
        while names and not names[-1]:
            names.pop()
        doubled = next((name for name in names if names.count(name) > 1), None)
        if doubled is not None:
            raise CommandFailure(f"{self.text.label}: has two columns {doubled!r}", "Rename one of them.")
        return names

    def _broken(self, number: int, error: csv.Error) -> CommandFailure:
        opened = str(error) == _OPEN_QUOTE
        words = "opens a quote that is never closed" if opened else f"has a stray quote ({error})"
        hint = 'Close it; a quote inside a cell is written twice: "".'
        return CommandFailure(f"{self.text.label}, row {number}: {words}", hint)


def _delimiter(head: str) -> str:
    """The one that parts the head, a comma where none does."""
    line = head.lstrip("\r\n").splitlines()[0] if head.strip() else ""
    return max(_DELIMITERS, key=lambda delimiter: (line.count(delimiter) > 0, delimiter == ","))


def _hint(columns: list[str]) -> str:
    only = "Only one column was found: " if len(columns) == 1 else ""
    return f"{only}if its cells are not parted as they look, say --delimiter (such as ; or tab)."


def looks_like_table(head: str) -> str | None:
    """`csv` or `tsv` where the first line is a table's head; `tabs` where tabs part the first lines."""
    lines = [line for line in head.splitlines()[:3] if line.strip()]
    if not lines:
        return None
    for delimiter in "\t,;|":
        names = [cell.strip().strip('"') for cell in lines[0].split(delimiter)]
        known = {"prompt", "custom_id"} & {name.casefold() for name in names}
        if len(names) > 1 and known and all(map(_NAME.fullmatch, names)):
            return "tsv" if delimiter == "\t" else "csv"
    tabs = {line.count("\t") for line in lines}
    return "tabs" if len(lines) > 1 and len(tabs) == 1 and 0 not in tabs else None
