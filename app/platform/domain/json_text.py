"""JSON text as it is kept: one line, and such that our own parser reads it again."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

# Reads JSON; raises ValueError for what is none. The very parser that will read a stored result again.
Parse = Callable[[bytes], Any]

_BOM = b"\xef\xbb\xbf"
# A JSON string holds no line break: whatever follows one is indentation.
_BREAKS = re.compile(r"[\r\n][ \t\r\n]*")
_SURROGATES = re.compile("[\ud800-\udfff]")


def one_line(text: str) -> str:
    """JSON text without its line breaks and indentation; nothing else changes, no digit of a number either."""
    return _BREAKS.sub("", text) if "\n" in text or "\r" in text else text


def read_json(body: bytes, parse: Parse) -> tuple[Any, str]:
    """A document and its text on one line. Raises ValueError for what is no JSON.

    What parsers are strict about and upstreams are not is put right, since it was paid for: a byte order mark, NaN
    and infinities (null), half a surrogate pair and broken UTF-8 (U+FFFD), raw control characters in strings.
    """
    body = body.strip().removeprefix(_BOM).strip()
    try:
        return parse(body), one_line(body.decode())
    except ValueError:
        text = _strict(body.decode("utf-8", "replace"))
    return parse(text.encode()), text


def _strict(text: str) -> str:
    try:
        document = json.loads(text, parse_constant=_null, parse_float=_finite, strict=False)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    plain = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return _SURROGATES.sub("\ufffd", plain)


def _null(_name: str) -> None:
    return None


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None
