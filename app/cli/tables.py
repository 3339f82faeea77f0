"""Tables on a terminal: what names a thing is shown whole, nothing is taken for markup, and a pipe cuts nothing off."""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.table import Table

_IN_A_PIPE = 1000  # columns, where nobody says how wide it is


def new_table(*columns: str) -> Table:
    """An empty table. The first column names what its row is about: it is the last to be narrowed."""
    made = Table(box=None, header_style="bold")
    for number, name in enumerate(columns):
        made.add_column(name, no_wrap=number == 0, overflow="fold")
    return made


def print_tables(*tables: Table) -> None:
    """Print those that have rows, an empty line between them."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(width=None if known else _IN_A_PIPE, markup=False, highlight=False)
    for number, one in enumerate(one for one in tables if one.row_count):
        if number:
            console.print()
        console.print(one)
