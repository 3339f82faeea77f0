"""The line of a TOML file at which something stands. tomllib tells values only, so the text is scanned."""

import re

from app.settings.errors import Place

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]")
_KEY = re.compile(r"""^\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")


def line_of(text: str, place: Place) -> int | None:
    """The 1-based line of the deepest part of `place` that the text spells out; None when none does.

    Inexact inside multi-line strings and inline tables: there it gives the line on which they start.
    """
    best, best_depth = None, 0
    for number, path in _paths(text):
        depth = _common(path, place)
        # A longer path names something else, unless it only starts with all of what is sought.
        if depth > best_depth and (depth == len(path) or depth == len(place)):
            best, best_depth = number, depth
    return best


def _paths(text: str) -> list[tuple[int, Place]]:
    """(line, full path) of every table header and every `name =` in the text."""
    found: list[tuple[int, Place]] = []
    table: Place = ()
    counts: dict[Place, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _indexed(_split(header[2]), counts, new_element=header[1] == "[[")
            found.append((number, table))
        elif key := _KEY.match(line):
            found.append((number, table + _split(key[1])))
    return found


def _split(dotted: str) -> Place:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))


def _indexed(names: Place, counts: dict[Place, int], *, new_element: bool) -> Place:
    """Put the element numbers of arrays of tables into a header's path, counting a new `[[...]]`."""
    path: Place = ()
    for position, name in enumerate(names):
        path += (name,)
        if new_element and position == len(names) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path += (counts[path],)
    return path


def _common(path: Place, place: Place) -> int:
    """How many parts both begin with."""
    depth = 0
    for one, other in zip(path, place, strict=False):
        if one != other:
            break
        depth += 1
    return depth
