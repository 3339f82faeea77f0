"""Configuration errors: what a check raises, and how it becomes a message with file, line and hint."""

import ipaddress
import re
from dataclasses import dataclass

from pydantic_core import PydanticCustomError

from app.platform.domain.errors import PenstockError


def config_error(message: str, hint: str) -> PydanticCustomError:
    """What a validator raises: what is wrong with the value, which it does not quote, and a hint at the fix."""
    return PydanticCustomError("fault", "{message}", {"message": message, "hint": hint})


def checked_network(value: str) -> str:
    """`value` unchanged when it is a network in CIDR notation or one address."""
    try:
        ipaddress.ip_network(value)
    except ValueError as error:
        if "host bits" in str(error):
            meant = ipaddress.ip_network(value, strict=False)
            raise config_error("has bits set beyond its mask", f'write "{meant}"') from None
        raise config_error("must be a network", 'write it like "10.1.0.0/16" or "fd00::/8"') from None
    return value


def checked_ports(value: str) -> str:
    """`value` unchanged when it is a port or a range of ports."""
    first, dash, last = value.partition("-")
    numbers = [first, last] if dash else [first]
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise config_error("must be a port or a range of ports", 'write it like "443" or "8000-9000"')
    if not 1 <= int(numbers[0]) <= int(numbers[-1]) <= 65535:
        raise config_error("must lie between 1 and 65535, the lower port first", 'write it like "8000-9000"')
    return value


# A place in the file as pydantic gives it: ("key", 1, "weight") is `weight` in the second [[key]].
Place = tuple[str | int, ...]


class ConfigError(PenstockError):
    """The service cannot start like this. Prints as `penstock.toml:12: what is wrong; hint: what to do`."""

    def __init__(self, file: str, line: int | None, message: str, hint: str) -> None:
        where = file if line is None else f"{file}:{line}"
        super().__init__(f"{where}: {message}; hint: {hint}")
        self.file = file
        self.line = line
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One fault, before its line is known."""

    place: Place
    message: str
    hint: str


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
