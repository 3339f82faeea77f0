"""Requests made leaner: parameters that an upstream would assume anyway are left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def strip_default_parameters(body: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The body without the parameters that say what holds anyway. 1 and 1.0 are the same, 1 and true are not."""
    return {
        name: value for name, value in body.items() if not (name in defaults and _same(value, defaults[name]))
    }


def _same(value: Any, default: Any) -> bool:
    return bool(value == default) and isinstance(value, bool) == isinstance(default, bool)
