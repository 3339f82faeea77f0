"""Reads an upstream's error from any of the shapes that providers use, and whose limit it names."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from app.upstreams.domain.upstream_words import FILLERS, Fillers, folded

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

    @property
    def words(self) -> frozenset[str]:
        """Code, type and the others in lower case."""
        return frozenset(word.lower() for word in (self.code, self.type, *self.others)) - {""}

    @property
    def status(self) -> int | None:
        """The HTTP status that its code or another word names as a number."""
        named = (word for word in (self.code, self.type, *self.others) if re.fullmatch(r"[45]\d\d", word))
        return next(map(int, named), None)


# Field names that providers use, most common first.
_ERRORS = ("error", "errors", "Error", "err", "base_resp", "Response", "header")
_MESSAGES = (
    *("message", "detail", "msg", "error_msg", "error_message", "errorMessage", "errorMsg", "err_msg"),
    *("status_msg", "Message", "error_description", "description", "title", "reason", "details"),
)
_CODES = ("code", "error_code", "errorCode", "err_code", "errcode", "status_code", "statusCode", "Code")
_TYPES = ("type", "error_type", "__type", "status")
_FILLERS = Fillers(FILLERS)


def read_error(document: Any) -> UpstreamError:
    """The error in an answer: an object, a list, a text, HTML, or a document inside a message."""
    return _read(document, _DEEPEST)


def is_error(document: Any) -> bool:
    """Whether a document has the shape of an error: `{"error": ...}`, or a message beside a code."""
    if not isinstance(document, Mapping):
        return False
    has = {name for name, value in document.items() if value not in (None, "", [], {})}
    return bool(has & {*_ERRORS}) or bool(has & {*_MESSAGES} and has & {*_CODES, *_TYPES})


def _read(document: Any, depth: int) -> UpstreamError:
    if depth <= 0:
        return UpstreamError()
    if isinstance(document, str):
        return _of_text(document, depth)
    if isinstance(document, Sequence) and not isinstance(document, bytes):
        return _joined([_read(item, depth - 1) for item in document[:_MAX_ITEMS]])
    return _of_object(document, depth) if isinstance(document, Mapping) else UpstreamError()


def _of_object(document: Mapping[str, Any], depth: int) -> UpstreamError:
    """The top level, made more precise by the error inside it."""
    top = _message(document, depth)
    inner = next((found for name in _ERRORS if (found := document.get(name)) and found is not True), None)
    if inner is None:
        return top
    if isinstance(inner, str) and top.message:
        return _over(top, UpstreamError(type=_text(inner)))
    return _over(_read(inner, depth - 1), top)


def _message(document: Mapping[str, Any], depth: int) -> UpstreamError:
    """An error object's own message, code, type and other words."""
    said = next((found for name in _MESSAGES if (found := document.get(name)) and found is not True), None)
    if isinstance(said, list) and said and _is_field_error(said[0]):
        inner = UpstreamError("; ".join(_field_errors(said))[:_LONGEST_MESSAGE])
    else:
        inner = _read(said, depth - 1)
    codes, types = list(_texts(document, _CODES)), list(_texts(document, _TYPES))
    others = (*codes[1:], *types[1:], *_reasons(document.get("details")))
    return _over(inner, UpstreamError("", (codes or [""])[0], (types or [""])[0], others))


def _over(inner: UpstreamError, outer: UpstreamError) -> UpstreamError:
    """Both combined; the inner one takes precedence."""
    further = [word for word in (outer.code, outer.type, *outer.others) if word]
    return UpstreamError(
        inner.message or outer.message,
        inner.code or outer.code,
        inner.type or outer.type,
        tuple(dict.fromkeys((*inner.others, *further))),
    )


def _joined(errors: Sequence[UpstreamError]) -> UpstreamError:
    found = [error for error in errors if error != UpstreamError()]
    if not found:
        return UpstreamError()
    message = "; ".join(error.message for error in found if error.message)
    whole = found[0]
    for error in found[1:]:
        whole = _over(whole, error)
    return UpstreamError(message[:_LONGEST_MESSAGE], whole.code, whole.type, whole.others)


def _is_field_error(item: Any) -> bool:
    return isinstance(item, Mapping) and "loc" in item


def _field_errors(items: Sequence[Any]) -> Iterator[str]:
    """FastAPI's list as `field: message`, without the input."""
    for item in filter(_is_field_error, items[:_MAX_ITEMS]):
        place = item["loc"] if isinstance(item["loc"], list) else [item["loc"]]
        field = ".".join(str(part)[:100] for part in place if part != "body")
        yield ": ".join(filter(None, (field, _text(item.get("msg") or item.get("message")))))


def _reasons(details: Any) -> Iterator[str]:
    """Google's `details`, whose `reason` is more exact than the message."""
    for item in details if isinstance(details, list) else ():
        if isinstance(item, Mapping) and (reason := _text(item.get("reason"))):
            yield reason


def _texts(document: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    return filter(None, (_text(document.get(name)) for name in names))


def _of_text(text: str, depth: int) -> UpstreamError:
    """A text is a message; or a document after filler words; or a page, represented by its title."""
    nested = _nested(text[:_LONGEST_NESTED])
    if nested is not None and depth > 1:
        return _over(_read(nested, depth - 1), UpstreamError(_text(text)))
    if re.match(r"\s*<(?:!doctype|html|head|body|\?xml)", text[:200], re.IGNORECASE):
        return UpstreamError(_title(text[:_LONGEST_NESTED]))
    return UpstreamError(_text(text))


def _nested(text: str) -> Any:
    start = next((at for at, character in enumerate(text) if character in "{["), -1)
    if start < 0 or not _FILLERS.fill(folded(text[:start])):
        return None
    found = _document(text[start:].strip())
    listed = found[0] if isinstance(found, list) and found else found
    return found if is_error(listed) else None


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
    found = re.search(r"<title[^>]*>([^<]{1,300})<", page, re.IGNORECASE) or re.search(
        r"<h1[^>]*>([^<]{1,300})<", page, re.IGNORECASE
    )
    return _text(found[1]) if found else ""


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
