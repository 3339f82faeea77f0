"""What an upstream's error means: the outcome of the call.

Providers agree on little. The status decides where it says enough; else the words of the error, which are data
(`upstream_words.py`). A message may echo what the client wrote, so what would close an account or a key, and what
would turn a refusal of the request into a wait, is believed only where the message begins with it.
"""

from __future__ import annotations

from app.tasks.domain.attempt import Outcome
from app.upstreams.domain.phrases import Fillers, Phrases, folded, folded_code
from app.upstreams.domain.upstream_error import UpstreamError
from app.upstreams.domain.upstream_words import FILLERS, WORDS, Meaning

_FILLERS = Fillers(FILLERS)
_CODES = {m: frozenset(map(folded_code, words.get("codes", ()))) for m, words in WORDS.items()}
_BEGINS = {m: Phrases(words.get("begins", ())) for m, words in WORDS.items()}
_SAYS = {m: Phrases(words.get("says", ())) for m, words in WORDS.items()}

_FIXED = {
    401: Outcome.UNAUTHORIZED,
    402: Outcome.NO_BALANCE,
    404: Outcome.UNKNOWN_MODEL,
    408: Outcome.UNAVAILABLE,
    409: Outcome.UNAVAILABLE,  # two calls met on a lock of the upstream's own
    425: Outcome.UNAVAILABLE,
    503: Outcome.OVERLOADED,
    529: Outcome.OVERLOADED,
}
# In this order: the first that an error means.
_OURS = {Meaning.NO_BALANCE: Outcome.NO_BALANCE, Meaning.DEAD_KEY: Outcome.UNAUTHORIZED}
_REQUEST = {
    Meaning.CONTEXT_TOO_LONG: Outcome.CONTEXT_TOO_LONG,
    Meaning.CONTENT_REFUSED: Outcome.CONTENT_REFUSED,
    Meaning.UNKNOWN_MODEL: Outcome.UNKNOWN_MODEL,
}
_WAIT = {
    Meaning.BUSY: Outcome.OVERLOADED,
    Meaning.RATE_LIMITED: Outcome.RATE_LIMITED,
    Meaning.LATER: Outcome.OVERLOADED,
}


class _Words:
    """An error's words, looked through."""

    def __init__(self, error: UpstreamError) -> None:
        self._codes = frozenset(map(folded_code, error.words))
        self._message = folded(error.message)
        self._starts = tuple(_FILLERS.starts(self._message))

    def code(self, meaning: Meaning) -> bool:
        return bool(self._codes & _CODES[meaning])

    def begin(self, meaning: Meaning) -> bool:
        return self.code(meaning) or _BEGINS[meaning].begin(self._message, self._starts)

    def say(self, meaning: Meaning) -> bool:
        return self.begin(meaning) or _SAYS[meaning].stand_in(self._message)

    @property
    def broke(self) -> bool:
        return _SAYS[Meaning.BROKEN].stand_in(self._message)


def outcome_of(status: int, error: UpstreamError) -> Outcome:
    """What an error with this HTTP status means."""
    words = _Words(error)
    for meaning, outcome in _OURS.items():
        if words.begin(meaning):
            return outcome
    if status in _FIXED:
        return _FIXED[status]
    if status == 429:
        return Outcome.OVERLOADED if words.say(Meaning.BUSY) else Outcome.RATE_LIMITED
    if status == 403:
        return _of_403(words)
    return _of_request(words) if 400 <= status < 500 else _of_server(words)


def outcome_in_200(error: UpstreamError) -> Outcome:
    """What an error means that came where an answer should be: its code may name a status; else by its words."""
    if (status := error.status) is not None:
        return outcome_of(status, error)
    words = _Words(error)
    for meaning, outcome in {**_OURS, **_REQUEST}.items():
        found = words.begin(meaning) if meaning in _OURS else words.say(meaning)
        if found:
            return outcome
    if (waits := _wait_by_beginning(words)) is not None:
        return waits
    if words.code(Meaning.INVALID):
        return Outcome.INVALID_REQUEST
    return Outcome.FORBIDDEN if words.begin(Meaning.FORBIDDEN) else _of_server(words)


def _of_403(words: _Words) -> Outcome:
    if words.say(Meaning.CONTENT_REFUSED):
        return Outcome.CONTENT_REFUSED
    return _wait_by_beginning(words) or Outcome.FORBIDDEN


def _of_request(words: _Words) -> Outcome:
    for meaning, outcome in _REQUEST.items():
        if words.say(meaning):
            return outcome
    if words.begin(Meaning.FORBIDDEN):
        return Outcome.FORBIDDEN
    return _wait_by_beginning(words) or Outcome.INVALID_REQUEST


def _wait_by_beginning(words: _Words) -> Outcome | None:
    return next((outcome for meaning, outcome in _WAIT.items() if words.begin(meaning)), None)


def _of_server(words: _Words) -> Outcome:
    """Nothing that it says can be the request's fault: it may say it anywhere."""
    if words.say(Meaning.BUSY):
        return Outcome.OVERLOADED
    if words.say(Meaning.RATE_LIMITED):
        return Outcome.RATE_LIMITED
    waits = words.say(Meaning.LATER) and not words.broke
    return Outcome.OVERLOADED if waits else Outcome.UNAVAILABLE
