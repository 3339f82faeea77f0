"""Reads an upstream's error from any of the shapes that providers use: words, whose limit it names, the wait."""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

from app.platform.domain.times import (
    DURATION,
    LONGEST_SECONDS,
    read_date,
    read_duration,
    retry_after_seconds,
    seconds_until,
)
from app.upstreams.domain.upstream_words import Fillers, folded

_LONGEST_MESSAGE = 1000  # characters kept of an upstream's message
_LONGEST_NESTED = 65536  # characters of a message that are parsed as a nested document
_DEEPEST = 8  # levels of nested documents
_MAX_ITEMS = 8  # of a list of errors


class LimitScope(StrEnum):
    """Whose limit a refusal names."""

    MODEL = "model"  # the account for this model: the default
    KEY_MODEL = "key_model"
    KEY = "key"
    ACCOUNT = "account"
    PROVIDER = "provider"


@dataclass(frozen=True, slots=True)
class UpstreamError:
    """An error of any shape. Absent parts are empty."""

    message: str = ""
    code: str = ""
    type: str = ""
    others: tuple[str, ...] = ()  # further words: a status, reasons
    param: str = ""  # the parameter at fault

    @property
    def words(self) -> frozenset[str]:
        """Code, type and the others in lower case."""
        return frozenset(word.lower() for word in (self.code, self.type, *self.others)) - {""}

    @property
    def status(self) -> int | None:
        """The HTTP status that its code or another word names as a number."""
        named = (word for word in (self.code, self.type, *self.others) if re.fullmatch(r"[45]\d\d", word))
        return next(map(int, named), None)


@dataclass(frozen=True, slots=True)
class ErrorShape:
    """Names of fields that providers use, most common first, and words that may precede a nested document."""

    errors: Sequence[str] = ("error",)
    messages: Sequence[str] = ("message",)
    codes: Sequence[str] = ("code",)
    types: Sequence[str] = ("type",)
    params: Sequence[str] = ("param",)
    fillers: Fillers = field(default_factory=lambda: Fillers(()))


def read_error(document: Any, shape: ErrorShape) -> UpstreamError:
    """The error in an answer: an object, a list, a text, HTML, or a document inside a message."""
    return _read(document, shape, _DEEPEST)


def is_error(document: Any, shape: ErrorShape) -> bool:
    """Whether a document has the shape of an error: `{"error": ...}`, or a message beside a code."""
    if not isinstance(document, Mapping):
        return False
    has = {name for name, value in document.items() if value not in (None, "", [], {})}
    return bool(has & {*shape.errors}) or bool(has & {*shape.messages} and has & {*shape.codes, *shape.types})


def says_error(document: Mapping[str, Any], shape: ErrorShape) -> bool:
    """Whether an answer's `error` says something; some send one of zeros and blanks with each answer."""
    if not (error := document.get("error")):
        return False
    found = read_error(error, shape)
    return bool(found.message or found.words - {"0", "200"}) or not isinstance(error, Mapping)


def _read(document: Any, shape: ErrorShape, depth: int) -> UpstreamError:
    if depth <= 0:
        return UpstreamError()
    if isinstance(document, str):
        return _of_text(document, shape, depth)
    if isinstance(document, Sequence) and not isinstance(document, bytes):
        return _joined([_read(item, shape, depth - 1) for item in document[:_MAX_ITEMS]])
    return _of_object(document, shape, depth) if isinstance(document, Mapping) else UpstreamError()


def _of_object(document: Mapping[str, Any], shape: ErrorShape, depth: int) -> UpstreamError:
    """The top level, made more precise by the error inside it."""
    top = _message(document, shape, depth)
    inner = next(
        (found for name in shape.errors if (found := document.get(name)) and found is not True), None
    )
    if inner is None:
        return top
    if isinstance(inner, str) and top.message:
        return _over(top, UpstreamError(type=_text(inner)))
    return _over(_read(inner, shape, depth - 1), top)


def _message(document: Mapping[str, Any], shape: ErrorShape, depth: int) -> UpstreamError:
    """An error object's own message, code, type and other words."""
    said = next(
        (found for name in shape.messages if (found := document.get(name)) and found is not True), None
    )
    if isinstance(said, list) and said and _is_field_error(said[0]):
        first = ".".join(_place(said[0]))
        inner = UpstreamError("; ".join(_field_errors(said))[:_LONGEST_MESSAGE], param=first)
    else:
        inner = _read(said, shape, depth - 1)
    codes, types = list(_texts(document, shape.codes)), list(_texts(document, shape.types))
    others = (*codes[1:], *types[1:], *_reasons(document.get("details")))
    param = next(_texts(document, shape.params), "")
    return _over(inner, UpstreamError("", (codes or [""])[0], (types or [""])[0], others, param))


def _over(inner: UpstreamError, outer: UpstreamError) -> UpstreamError:
    """Both combined; the inner one takes precedence."""
    further = [word for word in (outer.code, outer.type, *outer.others) if word]
    return UpstreamError(
        inner.message or outer.message,
        inner.code or outer.code,
        inner.type or outer.type,
        tuple(dict.fromkeys((*inner.others, *further))),
        inner.param or outer.param,
    )


def _joined(errors: Sequence[UpstreamError]) -> UpstreamError:
    found = [error for error in errors if error != UpstreamError()]
    if not found:
        return UpstreamError()
    message = "; ".join(error.message for error in found if error.message)
    whole = found[0]
    for error in found[1:]:
        whole = _over(whole, error)
    return replace(whole, message=message[:_LONGEST_MESSAGE])


def _is_field_error(item: Any) -> bool:
    return isinstance(item, Mapping) and "loc" in item


def _field_errors(items: Sequence[Any]) -> Iterator[str]:
    """FastAPI's list as `field: message`, without the input."""
    for item in filter(_is_field_error, items[:_MAX_ITEMS]):
        yield ": ".join(filter(None, (".".join(_place(item)), _text(item.get("msg") or item.get("message")))))


def _place(item: Mapping[str, Any]) -> Iterator[str]:
    place = item["loc"] if isinstance(item["loc"], list) else [item["loc"]]
    return (str(part)[:100] for part in place if part != "body")


def _reasons(details: Any) -> Iterator[str]:
    """Google's `details`, whose `reason` is more exact than the message."""
    for item in details if isinstance(details, list) else ():
        if isinstance(item, Mapping) and (reason := _text(item.get("reason"))):
            yield reason


def _texts(document: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    return filter(None, (_text(document.get(name)) for name in names))


def _of_text(text: str, shape: ErrorShape, depth: int) -> UpstreamError:
    """A text is a message; or a document after filler words; or a page, represented by its headings."""
    nested = _nested(text[:_LONGEST_NESTED], shape)
    if nested is not None and depth > 1:
        return _over(_read(nested, shape, depth - 1), UpstreamError(_text(text)))
    if re.match(r"\s*<(?:!doctype|html|head|body|\?xml)", text[:200], re.IGNORECASE):
        return UpstreamError(_title(text[:_LONGEST_NESTED]))
    return UpstreamError(_text(text))


def _nested(text: str, shape: ErrorShape) -> Any:
    start = next((at for at, character in enumerate(text) if character in "{["), -1)
    if start < 0 or not shape.fillers.fill(folded(text[:start])):
        return None
    found = _document(text[start:].strip())
    listed = found[0] if isinstance(found, list) and found else found
    return found if is_error(listed, shape) else None


def _document(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:  # Python's repr of a dict
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _title(page: str) -> str:
    found = re.findall(r"<(?:title|h1|h2)[^>]*>([^<]{1,300})<", page, re.IGNORECASE)
    return ". ".join(dict.fromkeys(filter(None, map(_text, found[:_MAX_ITEMS]))))[:_LONGEST_MESSAGE]


def _text(value: Any) -> str:
    """A value as one line of limited length; nested values are dropped, as they may contain anything."""
    if value is None or isinstance(value, bool | Mapping | list):
        return ""
    return " ".join(str(value)[:_LONGEST_MESSAGE].split())


def scope_of(error: UpstreamError, model: str) -> LimitScope:
    """Whose limit a 429 names. `model`: the upstream's name of the called model."""
    text = error.message.lower()
    names_model = "model" in text or (bool(model) and model.lower() in text)
    if re.search(r"\bfrom this ip\b|\byour ip\b|\b(all|this|our) (provider|platform)\b|\bglobal\b", text):
        return LimitScope.PROVIDER
    if re.search(r"\b(api[ _-]?key|this key|per[ -]key|your key)\b", text):
        return LimitScope.KEY_MODEL if names_model else LimitScope.KEY
    if re.search(r"\b(organi[sz]ation|account|workspace|user|project|team)\b", text) and not names_model:
        return LimitScope.ACCOUNT
    return LimitScope.MODEL


_LONGEST_TOLD = 600.0  # seconds taken from a text, which may quote a client
_MOST_FIELDS = 500  # of an error's JSON
_INSTANT = r"\d{4}-\d\d-\d\d[t ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:\s?utc|z|\s?[+-]\d\d:?\d\d)?"
_ABOUT = r"(?:about|approximately|around|another|at least|up to|约|大约)?\s*"


class WaitPlaces:
    """Where an answer says how long to wait: headers, fields of its JSON, phrases of its message, resets of limits."""

    def __init__(
        self,
        headers: Sequence[str] = ("retry-after-ms", "retry-after"),
        fields: Iterable[str] = (),
        says: Iterable[str] = (),
        resets: Sequence[str] = (),
    ) -> None:
        self._headers, self._resets = tuple(headers), tuple(resets)
        self._fields = {_plain_name(name) for name in fields}
        self._phrases = tuple(says)

    @cached_property
    def _says(self) -> re.Pattern[str]:
        return re.compile("|".join(map(_wait_pattern, self._phrases)) or r"(?!)")

    def asked(self, headers: Mapping[str, str], document: Any, message: str, now: float) -> float | None:
        """Seconds, above 0 up to an hour; None if nothing readable is asked for. `now`: Unix seconds.

        The first place counts: a header, a field of the document, the message, a limit that is used up.
        """
        found = retry_after_seconds(headers, now, names=self._headers)
        if found is None:
            found = next(self._in_document(document, now), None)
        if found is None:
            found = self._in_text(message, now)
        return self._until_reset(headers, now) if found is None else found

    def _in_document(self, document: Any, now: float) -> Iterator[float]:
        for name, value in _fields_of(document):
            if name == "headers" and isinstance(value, Mapping):
                headers = {str(header).lower(): str(one) for header, one in value.items()}
                found = retry_after_seconds(headers, now, names=self._headers) or self._until_reset(
                    headers, now
                )
            else:
                found = _field_seconds(name, value) if _plain_name(name) in self._fields else None
            if found:
                yield min(found, LONGEST_SECONDS)

    def _in_text(self, message: str, now: float) -> float | None:
        text = unicodedata.normalize("NFKC", message).casefold().replace('"', "").replace("'", "")
        for found in self._says.finditer(text):
            said = next(filter(None, found.groups()))
            at = read_date(said.replace("utc", "+00:00").replace(" +", "+").upper())
            seconds = read_duration(said.strip(" ,")) if at is None else at - now
            if seconds is not None and seconds > 0:
                return min(seconds, _LONGEST_TOLD)
        return None

    def _until_reset(self, headers: Mapping[str, str], now: float) -> float | None:
        """Until the limit that is used up is full again; without a word of what remains, until the first one is."""
        base = read_date(headers.get("date", ""))
        waits = {True: list[float](), False: list[float]()}
        for name in self._resets:
            seconds = seconds_until(headers.get(name, ""), now if base is None else base)
            remaining = headers.get(name.replace("reset", "remaining"), "")
            if seconds and remaining in ("", "0"):
                waits[bool(remaining)].append(min(seconds, LONGEST_SECONDS))
        return max(waits[True], default=None) or min(waits[False], default=None)


def _plain_name(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def _wait_pattern(phrase: str) -> str:
    """A phrase as a pattern whose group is the wait; `:` and `=` may follow its last word."""
    before, mark, after = re.split(r"(\{wait\}|\{at\})", phrase.casefold(), maxsplit=1)
    left, right = (r"[\s:=]*".join(map(re.escape, part.split())) for part in (before, after))
    value = DURATION if mark == "{wait}" else _INSTANT
    return rf"{left}[\s:=]*{_ABOUT}({value})[\s,]*{right}" if left else rf"({value})[\s,]*{right}"


def _fields_of(document: Any) -> Iterator[tuple[str, Any]]:
    """All fields at any depth, breadth first, also of documents inside texts."""
    queue, seen = [document], 0
    while queue and seen < _MOST_FIELDS:
        seen += 1
        one = queue.pop(0)
        if isinstance(one, Mapping):
            yield from ((str(name), value) for name, value in one.items())
            queue.extend(value for value in one.values() if isinstance(value, Mapping | list | str))
        elif isinstance(one, list):
            queue.extend(one[:_MAX_ITEMS])
        elif isinstance(one, str) and (start := one.find("{")) >= 0:
            inner = _document(one[start:_LONGEST_NESTED].strip())
            queue.extend([inner] if isinstance(inner, Mapping) else [])


def _field_seconds(name: str, value: Any) -> float | None:
    """Of 8, "8s", "8" or `{"seconds": 8, "nanos": 5}`; milliseconds where the name says so."""
    if isinstance(value, Mapping):
        whole, rest = value.get("seconds", 0), value.get("nanos", 0)
        parts = [part for part in (read_duration(str(whole)), read_duration(str(rest))) if part is not None]
        return parts[0] + parts[1] / 1e9 if len(parts) == 2 else None
    seconds = None if isinstance(value, bool) else read_duration(str(value)[:40])
    in_thousandths = seconds is not None and _plain_name(name).endswith("ms")
    return seconds / 1000 if seconds is not None and in_thousandths else seconds
