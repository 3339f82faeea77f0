"""Counting tokens by DeepSeek's rule of thumb, in whole tenths so that sums are exact.

An English character is about 0.3 token and a Chinese one about 0.6 (DeepSeek's documentation, 2026-11):
3 and 6 tenths. A text has its tenths, divided by ten and rounded up, tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

TENTHS_PER_CHARACTER = 3
TENTHS_PER_CHINESE_CHARACTER = 6
TENTHS_PER_TOKEN = 10

# Han with its extensions and punctuation, kana, hangul and full-width forms.
_CHINESE = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
_CHINESE_RUN = re.compile(f"{_CHINESE.pattern}+")


def has_chinese(text: str) -> bool:
    """Whether a text holds at least one Chinese (or other East Asian) character."""
    return not text.isascii() and _CHINESE.search(text) is not None


def count_tenths(text: str) -> int:
    """The length of a text in tenths of a token."""
    if text.isascii():
        return TENTHS_PER_CHARACTER * len(text)
    chinese = sum(run.end() - run.start() for run in _CHINESE_RUN.finditer(text))
    extra = TENTHS_PER_CHINESE_CHARACTER - TENTHS_PER_CHARACTER
    return TENTHS_PER_CHARACTER * len(text) + extra * chinese


def count_tokens(text: str) -> int:
    """The length of a text in tokens, rounded up; 0 for an empty text."""
    return -(-count_tenths(text) // TENTHS_PER_TOKEN)


def split_every(text: str, tokens: int) -> Iterator[str]:
    """Cut a text into consecutive pieces of at most `tokens` tokens; the last one may be shorter.

    A piece ends before the character that would exceed it and has at least one character.
    """
    room = tokens * TENTHS_PER_TOKEN
    if text.isascii():
        step = max(1, room // TENTHS_PER_CHARACTER)
        yield from (text[start : start + step] for start in range(0, len(text), step))
        return
    start = held = 0
    for place, character in enumerate(text):
        size = TENTHS_PER_CHINESE_CHARACTER if _CHINESE.match(character) else TENTHS_PER_CHARACTER
        if held + size > room and place > start:
            yield text[start:place]
            start, held = place, 0
        held += size
    if start < len(text):
        yield text[start:]


def cut_to_tokens(text: str, tokens: int) -> str:
    """The longest beginning of a text that has at most `tokens` tokens (one character at least)."""
    return next(split_every(text, tokens), "")
