"""From a reply or transport error to a verdict: the outcome of a call, and everything else learned from it.

Providers agree on little. An error's status decides where it says enough, otherwise its words do, which are data (a
profile). A message may echo what the client wrote, so words that would close an account or a key, or turn a refusal of
the request into a wait, count only at the start of a message.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.platform.domain.json_text import Parse, read_document
from app.platform.domain.times import retry_after_seconds
from app.tasks.domain.attempt import Finish, Outcome, TokenUsage
from app.upstreams.domain.answer import finish_of, usage_of, was_withheld
from app.upstreams.domain.chat_stream import whole_of
from app.upstreams.domain.refusals import Figure, named_limit
from app.upstreams.domain.reply import Reply, TransportError, TransportErrorKind
from app.upstreams.domain.request_parameters import FixPhrases, ParameterFix, fixes_of
from app.upstreams.domain.upstream_error import (
    ErrorShape,
    LimitScope,
    UpstreamError,
    WaitPlaces,
    is_error,
    read_error,
    says_error,
    scope_of,
)
from app.upstreams.domain.upstream_words import Fillers, Meaning, SpokenWords, Vocabulary

_FIXED = {
    401: Outcome.UNAUTHORIZED,
    402: Outcome.NO_BALANCE,
    404: Outcome.UNKNOWN_MODEL,
    408: Outcome.UNAVAILABLE,
    409: Outcome.UNAVAILABLE,  # two calls met at a lock inside the upstream
    425: Outcome.UNAVAILABLE,
    503: Outcome.OVERLOADED,
    529: Outcome.OVERLOADED,
}
# The first match counts.
_OURS = {
    Meaning.NO_BALANCE: Outcome.NO_BALANCE,
    Meaning.DEAD_KEY: Outcome.UNAUTHORIZED,
    Meaning.TERMINATED: Outcome.UNAUTHORIZED,
}
_REQUEST = {
    Meaning.CONTEXT_TOO_LONG: Outcome.CONTEXT_TOO_LONG,
    Meaning.CONTENT_REFUSED: Outcome.CONTENT_REFUSED,
    Meaning.UNKNOWN_MODEL: Outcome.UNKNOWN_MODEL,
}
_WAIT = {
    Meaning.BUSY: Outcome.OVERLOADED,
    Meaning.LOADING: Outcome.OVERLOADED,
    Meaning.RATE_LIMITED: Outcome.RATE_LIMITED,
    Meaning.LATER: Outcome.OVERLOADED,
}


_OUTCOMES = {
    **_OURS,
    **_REQUEST,
    **_WAIT,
    Meaning.FORBIDDEN: Outcome.FORBIDDEN,
    Meaning.INVALID: Outcome.INVALID_REQUEST,
    Meaning.BROKEN: Outcome.UNAVAILABLE,
}


class UpstreamProfile:
    """What a provider says and accepts, compiled; see app/settings/provider_profiles.py for its parts.

    `fixes`: changes made to every request. `auth`: the header of the key; `query`: added to the address.
    """

    def __init__(self, facts: Mapping[str, Any] | None = None) -> None:
        """`facts`: plain values; without them only statuses count."""
        known: Mapping[str, Any] = facts or {}
        fillers = known.get("fillers", ())
        request = known.get("request", {})
        self.vocabulary = Vocabulary(known.get("words"), fillers)
        self.statuses = {int(s): _OUTCOMES[Meaning(m)] for s, m in known.get("statuses", {}).items()}
        self.shape = ErrorShape(**known.get("shape", {}), fillers=Fillers(fillers))
        self.waits = WaitPlaces(**known.get("wait", {}))
        self.phrases = FixPhrases(**known.get("fixes", {}))
        self.fixes = fixes_of(request)
        self.auth: str = request.get("auth") or "authorization"
        self.query: Mapping[str, str] = request.get("query", {})
        self.passes = frozenset(request.get("passes", ()))

    def auth_header(self, secret: str) -> dict[str, str]:
        """The header that carries a key."""
        return {self.auth: f"Bearer {secret}" if self.auth == "authorization" else secret}

    def spoken(self, error: UpstreamError) -> SpokenWords:
        """An error's words, to be matched."""
        return SpokenWords(self.vocabulary, error.words, error.message)


def outcome_of(status: int, error: UpstreamError, profile: UpstreamProfile) -> Outcome:
    """The outcome that an error with this HTTP status means."""
    words = profile.spoken(error)
    for meaning, outcome in _OURS.items():
        if words.begin(meaning):
            return outcome
    if status in (401, 403) and words.begin(Meaning.UNKNOWN_MODEL):
        return Outcome.UNKNOWN_MODEL  # a sound key that may not use this model
    fixed = profile.statuses.get(status) or _FIXED.get(status)
    if fixed is not None:
        return fixed
    if status == 429:
        return _of_429(words)
    if status == 403:
        return _of_403(words)
    return _of_request(words) if 400 <= status < 500 else _of_server(words)


def outcome_in_200(error: UpstreamError, profile: UpstreamProfile) -> Outcome:
    """The outcome of an error inside a 200. Its code may name a status, otherwise its words decide."""
    if (status := error.status) is not None:
        return outcome_of(status, error, profile)
    words = profile.spoken(error)
    for meaning, outcome in {**_OURS, **_REQUEST}.items():
        found = words.begin(meaning) if meaning in _OURS else words.say(meaning)
        if found:
            return outcome
    if (waits := _wait_by_beginning(words)) is not None:
        return waits
    if words.code(Meaning.INVALID):
        return Outcome.INVALID_REQUEST
    return Outcome.FORBIDDEN if words.begin(Meaning.FORBIDDEN) else _of_server(words)


def _of_429(words: SpokenWords) -> Outcome:
    """A request that is larger than a limit would never be sent."""
    if words.begin(Meaning.CONTEXT_TOO_LONG):
        return Outcome.CONTEXT_TOO_LONG
    waits = words.say(Meaning.BUSY) or words.say(Meaning.LOADING)
    return Outcome.OVERLOADED if waits else Outcome.RATE_LIMITED


def _of_403(words: SpokenWords) -> Outcome:
    if words.say(Meaning.CONTENT_REFUSED):
        return Outcome.CONTENT_REFUSED
    return _wait_by_beginning(words) or Outcome.FORBIDDEN


def _of_request(words: SpokenWords) -> Outcome:
    for meaning, outcome in _REQUEST.items():
        if words.say(meaning):
            return outcome
    if words.begin(Meaning.FORBIDDEN):
        return Outcome.FORBIDDEN
    return _wait_by_beginning(words) or Outcome.INVALID_REQUEST


def _wait_by_beginning(words: SpokenWords) -> Outcome | None:
    return next((outcome for meaning, outcome in _WAIT.items() if words.begin(meaning)), None)


def _of_server(words: SpokenWords) -> Outcome:
    """A server's error is never the request's fault, so its words count anywhere in the message."""
    if words.say(Meaning.BUSY) or words.say(Meaning.LOADING):
        return Outcome.OVERLOADED
    if words.say(Meaning.RATE_LIMITED):
        return Outcome.RATE_LIMITED
    waits = words.say(Meaning.LATER) and not words.say(Meaning.BROKEN)
    return Outcome.OVERLOADED if waits else Outcome.UNAVAILABLE


_REPAIRABLE = frozenset({Outcome.INVALID_REQUEST, Outcome.CONTEXT_TOO_LONG})
_REQUEST_IDS = ("x-request-id", "request-id", "x-ds-trace-id", "x-trace-id")
_HINTS = ("x-ratelimit-", "ratelimit")
_MAX_HINTS, _LONGEST_HINT = 24, 200
_MAX_TEXT = 65536  # bytes read of an error that is not JSON


@dataclass(frozen=True, slots=True)
class CallVerdict:
    """The outcome of one call, and what was learned from it.

    `message`: the upstream's own where there is one, in one line; it may quote the client's request and is for the
    client only. `result`: the answer as JSON text. `called`: whether anything was sent.
    """

    outcome: Outcome
    message: str = ""
    code: str = ""  # the upstream's
    param: str = ""  # the parameter that it names
    status_code: int | None = None
    retry_after_seconds: float | None = None
    scope: LimitScope = LimitScope.MODEL
    usage: TokenUsage | None = None
    result: str | None = field(default=None, repr=False)
    simulated: bool = False
    fixes: tuple[ParameterFix, ...] = ()  # changes of the request that its words suggest, best first
    upstream_request_id: str | None = None
    sent_at: float | None = None
    first_byte_at: float | None = None
    hints: Mapping[str, str] = field(default_factory=dict)
    finish: Finish | None = None  # of the answer, if there is one
    called: bool = True
    sent: bool = True  # also False if no connection could be made
    named: Figure | None = None  # the limit that a refusal's words name

    @property
    def tokens(self) -> int | None:
        """Tokens that the call used: 0 if it was refused, None if unknown."""
        if self.usage is not None:
            return self.usage.prompt_tokens + self.usage.completion_tokens
        refused = self.status_code is not None and 400 <= self.status_code < 500
        return 0 if refused or self.outcome is Outcome.OVERLOADED or not self.sent else None


@dataclass(frozen=True, slots=True)
class _AnswerReading:
    """What reading an answer depends on."""

    model: str
    now: float
    parse: Parse
    profile: UpstreamProfile
    headers: Mapping[str, str]
    fits: Callable[[str], bool] | None


def classify(
    reply: Reply | TransportError,
    *,
    model: str,
    now: float,
    parse: Parse,
    profile: UpstreamProfile,
    fits: Callable[[str], bool] | None = None,
) -> CallVerdict:
    """The verdict on a call. `model`: the upstream's name of it; `now`: Unix seconds; `profile`: the upstream's.

    `fits`: whether a text is the JSON that was asked for.
    """
    reading = _AnswerReading(model, now, parse, profile, reply.headers, fits)
    if isinstance(reply, TransportError):
        return _of_transport_error(reply, reading)
    known = _known(reply, now)
    if 200 <= reply.status < 300:
        return _of_success(reply, known, reading)
    return _of_error(_document(reply.body, parse), known, reading)


def _known(reply: Reply | TransportError, now: float) -> CallVerdict:
    """What the head of an answer says. The outcome is set later."""
    headers = reply.headers
    return CallVerdict(
        outcome=Outcome.MALFORMED,
        status_code=reply.status,
        retry_after_seconds=retry_after_seconds(headers, now),
        upstream_request_id=next((headers[name][:200] for name in _REQUEST_IDS if headers.get(name)), None),
        sent_at=reply.sent_at,
        first_byte_at=reply.first_byte_at,
        hints=_hints(headers),
    )


def _hints(headers: Mapping[str, str]) -> dict[str, str]:
    found = [(name, value) for name, value in headers.items() if name.startswith(_HINTS)]
    if found and "date" in headers:  # the base of their relative times
        found.insert(0, ("date", headers["date"]))
    return {name: value[:_LONGEST_HINT] for name, value in found[:_MAX_HINTS]}


_OF_TRANSPORT_ERROR = {
    TransportErrorKind.NOT_SENT: Outcome.RETURNED,
    TransportErrorKind.ABORTED: Outcome.RETURNED,
    TransportErrorKind.UNCONNECTED: Outcome.UNAVAILABLE,
    TransportErrorKind.BROKEN: Outcome.UNAVAILABLE,
    TransportErrorKind.CUT: Outcome.MALFORMED,
    TransportErrorKind.TIMED_OUT: Outcome.TIMED_OUT,
    TransportErrorKind.TOO_LARGE: Outcome.RESPONSE_TOO_LARGE,
}


def _of_transport_error(fault: TransportError, reading: _AnswerReading) -> CallVerdict:
    known = _known(fault, reading.now)
    if fault.status is not None and fault.status >= 300 and fault.trouble is not TransportErrorKind.ABORTED:
        return _of_error(None, known, reading)  # the status arrived, only the body is missing
    called = fault.trouble is not TransportErrorKind.NOT_SENT
    outcome = _OF_TRANSPORT_ERROR[fault.trouble]
    return replace(known, outcome=outcome, message=fault.message, called=called, sent=fault.sent)


def _of_success(reply: Reply, known: CallVerdict, reading: _AnswerReading) -> CallVerdict:
    if not reply.body.strip():
        return replace(known, message="The upstream answered 200 with an empty body.")
    try:
        given, text = read_document(reply.body, reading.parse)
    except ValueError:
        given, text = None, ""
    document = whole_of(given)
    if not isinstance(document, Mapping):
        return _of_no_object(_document(reply.body, reading.parse), known, reading)
    known = replace(known, simulated=document.get("simulated") is True, usage=usage_of(document))
    choice = _first_choice(document)
    failed = says_error(document, reading.profile.shape)
    if failed or (choice is None and is_error(document, reading.profile.shape)):
        return _of_error(document, known, reading)
    if choice is None:
        return replace(known, message="The upstream answered 200 without any choice.")
    if document is not given:
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return _of_choice(choice, replace(known, result=text, finish=finish_of(document, reading.fits)))


def _of_no_object(document: Any, known: CallVerdict, reading: _AnswerReading) -> CallVerdict:
    """A list or plain text in a 200 is an error if its words say which, otherwise malformed."""
    found = _of_error(document, known, reading)
    if found.outcome is Outcome.UNAVAILABLE:
        return replace(known, message="The upstream answered 200 with something that is not a JSON object.")
    return found


def _first_choice(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    choices = document.get("choices")
    if not isinstance(choices, Sequence) or not choices or not isinstance(choices[0], Mapping):
        return None
    return choices[0] if isinstance(choices[0].get("message"), Mapping) else None


def _of_choice(choice: Mapping[str, Any], known: CallVerdict) -> CallVerdict:
    """A well-formed body may still say that the answer was cut short or withheld."""
    reason = choice.get("finish_reason")
    if reason == "insufficient_system_resource":
        return replace(
            known,
            outcome=Outcome.OVERLOADED,
            result=None,
            finish=None,
            message="The upstream ran out of capacity.",
        )
    if reason == "error":
        return replace(
            known,
            outcome=Outcome.UNAVAILABLE,
            result=None,
            finish=None,
            message="The upstream broke off the answer.",
        )
    if was_withheld(choice):
        withheld = "The upstream withheld the answer: content filter."
        return replace(known, outcome=Outcome.CONTENT_REFUSED, message=withheld)
    return replace(known, outcome=Outcome.SUCCEEDED)


def _of_error(document: Any, known: CallVerdict, reading: _AnswerReading) -> CallVerdict:
    """The verdict on an error: an object, a list, a text or None."""
    profile, status = reading.profile, known.status_code or 0
    error = read_error(document, profile.shape)
    in_success = 200 <= status < 300
    outcome = outcome_in_200(error, profile) if in_success else outcome_of(status, error, profile)
    return replace(
        known,
        outcome=outcome,
        message=error.message or f"The upstream answered {known.status_code}.",
        code=error.code or error.type,
        param=error.param,
        retry_after_seconds=profile.waits.asked(reading.headers, document, error.message, reading.now),
        scope=scope_of(error, reading.model),
        named=named_limit(error) if outcome is Outcome.RATE_LIMITED else None,
        fixes=profile.phrases.suggested(error.message, error.param) if outcome in _REPAIRABLE else (),
    )


def _document(body: bytes, parse: Parse) -> Any:
    """A body as JSON, else as text: plain, or an HTML page."""
    try:
        return read_document(body, parse)[0]
    except ValueError:
        return body[:_MAX_TEXT].decode("utf-8-sig", "replace")
