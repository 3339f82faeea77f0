"""Tables on a terminal: what names a thing is shown whole, nothing is taken for markup, and a pipe cuts nothing off."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

_IN_A_PIPE = 1000  # columns


def new_table(*columns: str) -> Table:
    """An empty table. The first column names what its row is about: it is the last to be narrowed."""
    made = Table(box=None, header_style="bold")
    for number, name in enumerate(columns):
        made.add_column(name, no_wrap=number == 0, overflow="fold")
    return made


def print_tables(*tables: Table, width: int | None = None) -> None:
    """Print those that have rows, an empty line between them; `width` in columns [default: the terminal's]."""
    wide = width or (None if sys.stdout.isatty() else _IN_A_PIPE)
    console = Console(width=wide, markup=False, highlight=False)
    for number, one in enumerate(one for one in tables if one.row_count):
        if number:
            console.print()
        console.print(one)
