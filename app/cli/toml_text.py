"""Plain data as TOML text: what `tomllib` reads, written back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


def to_toml(data: Mapping[str, Any]) -> str:
    """The text that `tomllib.loads` reads as `data`. None cannot be said in TOML and is left out."""
    return "\n".join(_lines(data, ())) + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Values first: in TOML what follows a header belongs to that table."""
    for name, value in table.items():
        if value is not None and not _is_table(value):
            yield f"{_key(name)} = {_value(value)}"
    for name, value in table.items():
        header = ".".join(map(_key, (*path, name)))
        if isinstance(value, Mapping):
            yield f"\n[{header}]"
            yield from _lines(value, (*path, name))
        elif _is_table(value):
            for element in value:
                yield f"\n[[{header}]]"
                yield from _lines(element, (*path, name))


def _is_table(value: Any) -> bool:
    """A table, or a list of nothing but tables."""
    listed = isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)
    return isinstance(value, Mapping) or listed


def _key(name: str) -> str:
    return name if name.isascii() and name.replace("-", "_").isidentifier() else _text(name)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_key(name)} = {_value(item)}' for name, item in value.items())}}}"
    return str(value)  # numbers, dates and times write themselves as TOML does


def _text(value: str) -> str:
    """JSON's escapes are TOML's; DEL alone must be escaped here and is not there."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
