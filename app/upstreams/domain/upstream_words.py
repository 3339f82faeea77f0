"""Matches what upstreams say when they refuse. The words are data (app/settings/profiles), by meaning.

`codes` are whole words of an error's code, type, status or reasons. `begins` are openings of a message, after words
that carry no meaning (`fillers`): the only words that count where a message may echo what the client wrote. `says` may
appear anywhere, and so may those of `unless`, which rule a meaning out. Case, spaces and punctuation do not matter;
`*` matches up to 250 characters, `$` the end of the message.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import cached_property


class Meaning(StrEnum):
    """What an error's words can mean."""

    NO_BALANCE = "no_balance"
    DEAD_KEY = "dead_key"
    TERMINATED = "terminated"
    CONTEXT_TOO_LONG = "context_too_long"
    CONTENT_REFUSED = "content_refused"
    UNKNOWN_MODEL = "unknown_model"
    FORBIDDEN = "forbidden"
    BUSY = "busy"
    LOADING = "loading"
    LATER = "later"  # "try again later": busy, unless something broke
    RATE_LIMITED = "rate_limited"
    INVALID = "invalid"
    BROKEN = "broken"


_GAP = ".{0,250}?"
_CJK = "\u3400-\u4dbf\u4e00-\u9fff"
_PUNCTUATION = re.compile(r"[\W_]+")
_SPACE_AT_CJK = re.compile(rf"(?<=[{_CJK}]) | (?=[{_CJK}])")
_NUMBER_OR_ERROR = re.compile(r"(?:\d+|\w*(?:error|exception))(?![^\W_])", re.ASCII)


def folded(text: str) -> str:
    """A message for comparison: lower case, one space between words, none next to a Chinese character."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace("\u2019", "")
    words = _PUNCTUATION.sub(" ", plain).strip().replace("apikey", "api key")
    return _SPACE_AT_CJK.sub("", words)


def folded_code(code: str) -> str:
    """A code for comparison: `RateLimitExceeded` equals `rate_limit_exceeded`."""
    return _PUNCTUATION.sub("", code.casefold())


class Phrases:
    """Matches the phrases of one meaning, whatever the case, spaces and punctuation."""

    def __init__(self, phrases: Iterable[str]) -> None:
        known = list(phrases)
        self._plain = tuple(folded(phrase) for phrase in known if not {"*", "$"} & {*phrase})
        self._whole = tuple(folded(phrase) for phrase in known if phrase.endswith("$") and "*" not in phrase)
        self._gaps = [phrase for phrase in known if "*" in phrase]

    @cached_property
    def _gapped(self) -> re.Pattern[str]:
        return re.compile(
            rf"(?<![a-z0-9])(?:{'|'.join(map(_pattern, self._gaps))})" if self._gaps else r"(?!)"
        )

    def begin(self, message: str, starts: Sequence[int]) -> bool:
        """Whether a folded message contains one of them at one of these positions, where words begin."""
        return any(
            message.startswith(self._plain, at)
            or message[at:] in self._whole
            or self._gapped.match(message, at)
            for at in starts
        )

    def stand_in(self, message: str) -> bool:
        """Whether a folded message contains one of them anywhere."""
        return (
            any(phrase in message and _begins_a_word(phrase, message) for phrase in self._plain)
            or any(message.endswith(phrase) and _begins_a_word(phrase, message) for phrase in self._whole)
            or self._gapped.search(message) is not None
        )


def _begins_a_word(phrase: str, message: str) -> bool:
    """Whether a phrase stands in a message other than within a Western word."""
    at = message.find(phrase)
    while at > 0 and message[at - 1].isascii() and message[at - 1].isalnum() and phrase[0].isascii():
        at = message.find(phrase, at + 1)
    return at >= 0


def _pattern(phrase: str) -> str:
    end = "$" if phrase.endswith("$") else ""
    return _GAP.join(re.escape(folded(part)) for part in phrase.removesuffix("$").split("*")) + end


class Fillers:
    """Words at the start of a message that carry no meaning."""

    def __init__(self, words: Iterable[str]) -> None:
        longest_first = sorted({folded(word) for word in words}, key=len, reverse=True)
        patterns = (re.escape(word) + (r"(?![a-z0-9])" if word.isascii() else "") for word in longest_first)
        self._word = re.compile("|".join(patterns) or r"(?!)")

    def starts(self, message: str) -> Iterator[int]:
        """Where the meaning of a folded message may start: at its beginning, and after each filler there."""
        at = 0
        while True:
            yield at
            found = self._word.match(message, at) or _NUMBER_OR_ERROR.match(message, at)
            if found is None or found.end() == at:
                return
            at = found.end() + message.startswith(" ", found.end())

    def fill(self, message: str) -> bool:
        """Whether a folded message consists of fillers only."""
        return max(self.starts(message)) == len(message)


class Codes:
    """Whole words of one meaning; `*` at the end of one stands for any ending."""

    def __init__(self, codes: Iterable[str]) -> None:
        known = list(codes)
        self._whole = frozenset(folded_code(code) for code in known if not code.endswith("*"))
        self._begun = tuple(folded_code(code) for code in known if code.endswith("*"))

    def hold(self, codes: Collection[str]) -> bool:
        """Whether one of these folded codes is among them."""
        return not self._whole.isdisjoint(codes) or any(code.startswith(self._begun) for code in codes)


class Vocabulary:
    """The words of a profile, compiled."""

    def __init__(
        self, words: Mapping[str, Mapping[str, Sequence[str]]] | None = None, fillers: Iterable[str] = ()
    ) -> None:
        given = {meaning: (words or {}).get(meaning, {}) for meaning in Meaning}
        self.fillers = Fillers(fillers)
        self.codes = {m: Codes(of.get("codes", ())) for m, of in given.items()}
        self.begins = {m: Phrases(of.get("begins", ())) for m, of in given.items()}
        self.says = {m: Phrases(of.get("says", ())) for m, of in given.items()}
        self.unless = {m: Phrases(of.get("unless", ())) for m, of in given.items()}


class SpokenWords:
    """An error's words, matched against a vocabulary."""

    def __init__(self, vocabulary: Vocabulary, codes: Iterable[str], message: str) -> None:
        self._known = vocabulary
        self._codes = frozenset(filter(None, map(folded_code, codes)))
        self._message = folded(message)
        self._starts = tuple(vocabulary.fillers.starts(self._message))

    def code(self, meaning: Meaning) -> bool:
        """Whether a code has this meaning."""
        return self._known.codes[meaning].hold(self._codes) and not self._ruled_out(meaning)

    def begin(self, meaning: Meaning) -> bool:
        """Whether a code or the start of the message has it."""
        found = self.code(meaning) or self._known.begins[meaning].begin(self._message, self._starts)
        return found and not self._ruled_out(meaning)

    def say(self, meaning: Meaning) -> bool:
        """Whether a code or anything in the message has it."""
        found = self.begin(meaning) or self._known.says[meaning].stand_in(self._message)
        return found and not self._ruled_out(meaning)

    def _ruled_out(self, meaning: Meaning) -> bool:
        return self._known.unless[meaning].stand_in(self._message)
