"""Changes to a request's parameters: a fix for one that the upstream rejects, and defaults that are left out.

A fix (clamp, rename or drop) is tried once. The task remembers it among what it avoids, as
`repair:<how>:<parameter>:<value>`; names of keys contain no colon, so the two cannot be confused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

How = Literal["clamp", "rename", "drop"]
_PREFIX = "repair"
_NAME = r"[`'\"]?([A-Za-z_][A-Za-z0-9_]{0,63})[`'\"]?"

# Without these it would be a different request.
_ESSENTIAL = frozenset(
    {
        "model",
        "messages",
        "prompt",
        "tools",
        "tool_choice",
        "functions",
        "function_call",
        "response_format",
        "n",
    }
)
_CLAMPS = (
    re.compile(rf"valid range of {_NAME} is \[\s*\d+\s*,\s*(\d+)\s*\]"),
    re.compile(rf"{_NAME} is too large: \d+\. This model supports at most (\d+)"),
    re.compile(rf"{_NAME} must be (?:less than or equal to|at most|<=) (\d+)"),
)
_RENAME = re.compile(rf"{_NAME} is not supported with this model\. Use {_NAME} instead")
_DROPS = (
    re.compile(
        rf"(?:Unsupported|Unknown|Unrecognized|Unexpected) (?:request )?(?:parameter|argument)[^:]*: {_NAME}"
    ),
    re.compile(rf"Unsupported value: {_NAME} does not support"),
    re.compile(rf"{_NAME} is not supported (?:with|by|for) this model"),
)
_LENGTHS = frozenset({"max_tokens", "max_completion_tokens"})


@dataclass(frozen=True, slots=True)
class ParameterFix:
    """One change to a request. `value`: the limit of a clamp, the new name of a rename."""

    how: How
    parameter: str
    value: str = ""

    def __str__(self) -> str:
        """As the task remembers it."""
        return f"{_PREFIX}:{self.how}:{self.parameter}:{self.value}"

    def apply(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The request with this change; an absent parameter stays absent."""
        changed = dict(request)
        if self.parameter not in changed:
            return changed
        value = changed.pop(self.parameter)
        if self.how == "clamp" and isinstance(value, int | float):
            changed[self.parameter] = min(value, int(self.value))
        elif self.how == "rename":
            changed.setdefault(self.value, value)
        return changed


def suggest_fix(message: str) -> ParameterFix | None:
    """The fix that an upstream's error message suggests, if it names a parameter and a way."""
    for pattern in _CLAMPS:
        if (found := pattern.search(message)) and found[1] in _LENGTHS and int(found[2]) > 0:
            return ParameterFix("clamp", found[1], found[2])
    if (found := _RENAME.search(message)) and {found[1], found[2]} == _LENGTHS:
        return ParameterFix("rename", found[1], found[2])
    for pattern in _DROPS:
        if (found := pattern.search(message)) and found[1] not in _ESSENTIAL:
            return ParameterFix("drop", found[1])
    return None


def remembered_fixes(avoid: Iterable[str]) -> tuple[ParameterFix, ...]:
    """The fixes among what a task avoids."""
    return tuple(_read(note) for note in avoid if note.startswith(f"{_PREFIX}:"))


def _read(note: str) -> ParameterFix:
    _, how, parameter, value = note.split(":", 3)
    if how == "clamp":
        return ParameterFix("clamp", parameter, value)
    return ParameterFix("rename", parameter, value) if how == "rename" else ParameterFix("drop", parameter)


def strip_default_parameters(body: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The body without parameters that equal their default. 1 equals 1.0, but not true."""
    return {
        name: value for name, value in body.items() if not (name in defaults and _same(value, defaults[name]))
    }


def _same(value: Any, default: Any) -> bool:
    return bool(value == default) and isinstance(value, bool) == isinstance(default, bool)
