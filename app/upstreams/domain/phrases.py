"""Phrases found in a message whatever its case, spaces and punctuation, in English and Chinese alike."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

_GAP = ".{0,250}?"
_CJK = "\u3400-\u4dbf\u4e00-\u9fff"
_PUNCTUATION = re.compile(r"[\W_]+")
_SPACE_AT_CJK = re.compile(rf"(?<=[{_CJK}]) | (?=[{_CJK}])")
_NUMBER_OR_ERROR = re.compile(r"(?:\d+|\w*(?:error|exception))(?![^\W_])", re.ASCII)


def folded(text: str) -> str:
    """A message as it is compared: lower case, words apart by one space, none beside a Chinese character."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace("\u2019", "")
    words = _PUNCTUATION.sub(" ", plain).strip().replace("apikey", "api key")
    return _SPACE_AT_CJK.sub("", words)


def folded_code(code: str) -> str:
    """A code as it is compared: `RateLimitExceeded` and `rate_limit_exceeded` are one."""
    return _PUNCTUATION.sub("", code.casefold())


class Phrases:
    """Phrases of one meaning; `*` stands for up to 250 characters, `$` for the end of the message."""

    def __init__(self, phrases: Iterable[str]) -> None:
        patterns = [_pattern(phrase) for phrase in phrases]
        western = "|".join(pattern for pattern in patterns if pattern.isascii())
        others = "|".join(pattern for pattern in patterns if not pattern.isascii())
        self._western = re.compile(rf"(?<![a-z0-9])(?:{western})" if western else r"(?!)")
        self._others = re.compile(others or r"(?!)")

    def begin(self, message: str, starts: Sequence[int]) -> bool:
        """Whether a folded message says one of them from one of these places on."""
        looked = [self._western] if message.isascii() else [self._western, self._others]
        return any(phrases.match(message, start) for phrases in looked for start in starts)

    def stand_in(self, message: str) -> bool:
        """Whether a folded message says one of them anywhere."""
        if self._western.search(message):
            return True
        return not message.isascii() and self._others.search(message) is not None


def _pattern(phrase: str) -> str:
    end = "$" if phrase.endswith("$") else ""
    parts = [re.escape(folded(part)) for part in phrase.removesuffix("$").split("*")]
    return _GAP.join(parts) + end


class Fillers:
    """Words at the beginning of a message that say nothing."""

    def __init__(self, words: Iterable[str]) -> None:
        longest_first = sorted({folded(word) for word in words}, key=len, reverse=True)
        patterns = (re.escape(word) + (r"(?![a-z0-9])" if word.isascii() else "") for word in longest_first)
        self._word = re.compile("|".join(patterns))

    def starts(self, message: str) -> Iterator[int]:
        """Where a folded message may begin to say something: at its start, and after each filler there."""
        at = 0
        while True:
            yield at
            found = self._word.match(message, at) or _NUMBER_OR_ERROR.match(message, at)
            if found is None or found.end() == at:
                return
            at = found.end() + message.startswith(" ", found.end())

    def fill(self, message: str) -> bool:
        """Whether a folded message is nothing else."""
        return max(self.starts(message)) == len(message)
