"""Changes to a request: fixes for what the upstream rejects, and defaults that are left out.

A task remembers its fixes among what it avoids, as `repair:<how>:<parameter>:<value>`; names of keys contain no colon,
so the two cannot be confused. What an upstream's words suggest is data (`fixes` of a profile).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

How = Literal["clamp", "rename", "drop", "role", "fit", "omit"]
MOST_FIXES = 8  # of one task
_PREFIX = "repair"
_LENGTHS = ("max_tokens", "max_completion_tokens")
STREAM_OPTIONS = "stream_options"  # which we add to a streamed request ourselves

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
_ESSENTIAL_OF_MESSAGE = frozenset({"role", "content", "tool_calls", "tool_call_id", "function_call"})
_RANGE = re.compile(r"(\()?(-?\d*(?:\.\d+)?)\.\.(-?\d*(?:\.\d+)?)(\))?")


@dataclass(frozen=True, slots=True)
class ParameterFix:
    """One change to a request. `fit` and `omit` hold for one request, the others for all of its upstream and model.

    `value`: the range of a clamp (`0..2`, a round bracket leaves its end out), the new name of a rename, the new role
    of a role, the largest length of a fit.
    """

    how: How
    parameter: str
    value: str = ""

    def __str__(self) -> str:
        """As the task remembers it."""
        return f"{_PREFIX}:{self.how}:{self.parameter}:{self.value}"

    @property
    def lasts(self) -> bool:
        """Whether other requests need it too."""
        return self.how not in ("fit", "omit")

    @property
    def keeps_meaning(self) -> bool:
        """Whether the answer is the one that was asked for."""
        return self.how == "role" or self.parameter == STREAM_OPTIONS

    @property
    def words(self) -> str:
        """For people."""
        match self.how:
            case "clamp":
                return f"{self.parameter} limited to {self.value.removeprefix('..').replace('..', ' to ')}"
            case "fit":
                return f"{self.parameter} limited to {self.value}, which the context leaves"
            case "rename":
                return f"{self.parameter} sent as {self.value}"
            case "role":
                return f"role {self.parameter} sent as {self.value}"
            case _:
                return f"{self.parameter} left out"

    def apply(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The request with this change; an absent parameter stays absent."""
        if self.how == "role":
            return _with_messages(request, lambda message: _with_role(message, self.parameter, self.value))
        if self.parameter.startswith("messages."):
            field = self.parameter.partition(".")[2]
            return _with_messages(request, lambda m: {k: v for k, v in m.items() if k != field})
        changed = dict(request)
        if self.parameter not in changed:
            return changed
        value = changed.pop(self.parameter)
        if self.how in ("clamp", "fit"):
            changed[self.parameter] = _within(value, self.value)
        elif self.how == "rename":
            changed.setdefault(self.value, value)
        return changed


def _with_messages(request: Mapping[str, Any], change: Any) -> dict[str, Any]:
    messages = request.get("messages")
    if not isinstance(messages, list):
        return dict(request)
    return {**request, "messages": [change(m) if isinstance(m, dict) else m for m in messages]}


def _with_role(message: Mapping[str, Any], role: str, other: str) -> Mapping[str, Any]:
    return {**message, "role": other} if message.get("role") == role else message


def _within(value: Any, limits: str) -> Any:
    """A number, moved into a range; anything else as it is."""
    found = _RANGE.fullmatch(limits if ".." in limits else f"..{limits}")
    if found is None or isinstance(value, bool) or not isinstance(value, int | float):
        return value
    low, high = (float(end) if end else None for end in (found[2], found[3]))
    step = 1.0 if "." not in f"{found[2]}{found[3]}" and (high or 3) - (low or 0) > 2 else 0.001
    if low is not None and value < (low := low + step * bool(found[1])):
        return _as_written(low)
    if high is not None and value > (high := high - step * bool(found[4])):
        return _as_written(high)
    return value


def _as_written(number: float) -> int | float:
    return int(number) if number.is_integer() else round(number, 6)


def remembered_fixes(avoid: Iterable[str]) -> tuple[ParameterFix, ...]:
    """The fixes among what a task avoids; unreadable notes are skipped."""
    return tuple(fix for note in avoid if (fix := read_fix(note)) is not None)


def read_fix(note: str) -> ParameterFix | None:
    """The fix that a note stands for, if it is one."""
    parts = note.split(":", 3)
    if len(parts) != 4 or parts[0] != _PREFIX:
        return None
    for how in ("clamp", "rename", "drop", "role", "fit", "omit"):
        if parts[1] == how:
            return ParameterFix(how, parts[2], parts[3])
    return None


def fixes_of(request: Mapping[str, Any]) -> tuple[ParameterFix, ...]:
    """The changes that a profile makes to every request."""
    most = request.get("max_tokens")
    return (
        *(ParameterFix("rename", old, new) for old, new in request.get("rename", {}).items()),
        *(ParameterFix("drop", name) for name in request.get("drop", ())),
        *(ParameterFix("role", old, new) for old, new in request.get("roles", {}).items()),
        *([ParameterFix("drop", STREAM_OPTIONS)] if request.get("stream_options") is False else []),
        *(ParameterFix("clamp", name, f"..{most}") for name in _LENGTHS if most),
    )


def known_fixes(request: str, known: Iterable[ParameterFix], *, streamed: bool) -> tuple[str, ...]:
    """Notes of those known fixes that change this request's JSON."""
    near = [
        fix
        for fix in known
        if f'"{fix.parameter.rpartition(".")[2]}"' in request or fix.parameter == STREAM_OPTIONS
    ]
    body = _read_request(request, streamed=streamed) if near else {}
    notes = []
    for fix in near:
        changed = fix.apply(body)
        if changed != body:
            notes.append(str(fix))
            body = changed
    return tuple(notes)


def next_fix(
    request: str, suggested: Iterable[ParameterFix], avoid: Collection[str], *, streamed: bool
) -> ParameterFix | None:
    """The first suggested fix that changes the request as it was sent; None if it has been changed often enough."""
    before = remembered_fixes(avoid)
    if len(before) >= MOST_FIXES:
        return None
    body = _read_request(request, streamed=streamed)
    for fix in before:
        body = fix.apply(body)
    found = (named for one in suggested for named in _named_as_in(one, body))
    return next((fix for fix in found if str(fix) not in avoid and fix.apply(body) != body), None)


def _read_request(request: str, *, streamed: bool) -> dict[str, Any]:
    try:
        body = json.loads(request)
    except ValueError:
        return {}
    return {**(body if isinstance(body, dict) else {}), **({STREAM_OPTIONS: {}} if streamed else {})}


def _named_as_in(fix: ParameterFix, body: Mapping[str, Any]) -> Iterator[ParameterFix]:
    """The fix with the request's own spelling of its parameter."""
    if fix.how == "role":
        yield fix
    elif fix.how == "fit":
        yield from (_tighter(replace(fix, parameter=name), body[name]) for name in _LENGTHS if name in body)
    else:
        name = next((known for known in body if _plain(known) == _plain(fix.parameter)), None)
        if name is not None and name not in _ESSENTIAL:
            yield replace(fix, parameter=name)
        elif name is None and fix.how in ("drop", "omit"):
            yield from _in_messages(fix, body)


def _tighter(fix: ParameterFix, asked: Any) -> ParameterFix:
    """Some upstreams count a prompt short: what takes off next to nothing takes off a quarter."""
    is_number = isinstance(asked, int | float) and not isinstance(asked, bool)
    if is_number and 0.98 * asked < int(fix.value) < asked:
        return replace(fix, value=str(int(asked * 3 / 4)))
    return fix


def _in_messages(fix: ParameterFix, body: Mapping[str, Any]) -> Iterator[ParameterFix]:
    messages = body.get("messages")
    fields = [f for m in messages if isinstance(m, dict) for f in m] if isinstance(messages, list) else []
    for field in dict.fromkeys(fields):
        if _plain(field) == _plain(fix.parameter) and field not in _ESSENTIAL_OF_MESSAGE:
            yield replace(fix, parameter=f"messages.{field}")


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


_NUMBER = r"-?\d+(?:\.\d+)?"
_COUNT = r"\d{1,3}(?:,\d{3})+|\d+"
_NAMED = r"[A-Za-z_][A-Za-z0-9_.\[\]]{0,80}"
_PARTS = {
    "[{min}": rf"(?P<open>[\[(])\s*(?P<min>{_NUMBER})",
    "{max}]": rf"(?P<max>{_NUMBER})\s*(?P<close>[\])])",
    "{max)": rf"(?P<max>{_NUMBER})(?P<close>(?=\D|$))",
    "{min)": rf"(?P<min>{_NUMBER})(?P<open>(?=\D|$))",
    "{max} (exclusive)": rf"(?P<max>{_NUMBER}) (?P<close>\(exclusive\))",
    "{name}": rf"(?<![A-Za-z0-9_.])(?P<name>{_NAMED})",
    "{other}": rf"(?<![A-Za-z0-9_.])(?P<other>{_NAMED})",
    "{role}": r"(?<![a-z])(?P<role>[a-z]{2,20})(?![a-z])",
    "{min}": rf"(?P<min>{_NUMBER})",
    "{max}": rf"(?P<max>{_NUMBER})",
    "{context}": rf"(?P<context>{_COUNT})",
    "{input}": rf"(?P<input>{_COUNT})",
    "{any}": r".{0,120}?",
    "{n}": r"[^\s,]{1,40}?",
}
_TOKEN = re.compile(r"\[\{min\}|\{max\}\]|\{max\} \(exclusive\)|\{[a-z]+[})]|\s+|[:,\[]|\$$|.")
_SPACING = {":": r"\s*:\s*", ",": r"\s*,\s*", "[": r"\[?\s*", "$": r"\s*\.?\s*$"}
_QUOTES = re.compile("[`'\"\u2018\u2019\u201c\u201d]")


_CONDITION = r"(?!\s+(?:when|if|while|unless|together|along|in combination|with (?!this|the|your)))"
_ORDER: tuple[How, ...] = ("fit", "clamp", "rename", "role", "drop", "omit")  # the first that fits is taken


@cache
def _compiled(phrase: str, how: How) -> re.Pattern[str]:
    parts = []
    for token in _TOKEN.findall(phrase):
        plain = r"\s+" if token.isspace() else re.escape(token) if token.isascii() else rf"\s*{token}\s*"
        parts.append(_PARTS.get(token) or _SPACING.get(token) or plain)
    return re.compile("".join(parts) + (_CONDITION if how == "drop" else ""), re.IGNORECASE)


class FixPhrases:
    """The phrases by which errors suggest fixes, compiled. Names of arguments are kinds of fixes."""

    def __init__(
        self,
        *,
        aliases: Mapping[str, str] | None = None,
        roles: Mapping[str, str] | None = None,
        **phrases: Sequence[str],
    ) -> None:
        self._aliases = {_plain(name): other for name, other in (aliases or {}).items()}
        self._roles = dict(roles or {})
        self._phrases = [(how, phrase) for how in _ORDER for phrase in phrases.get(how, ())]

    def suggested(self, message: str, param: str = "") -> tuple[ParameterFix, ...]:
        """The fixes that a message may mean, best first. `param`: the parameter that the error names apart."""
        text = _QUOTES.sub("", unicodedata.normalize("NFKC", message))
        texts = [text, f"{param}: {text}", f"{param} {text}"] if param and param not in text else [text]
        found = (
            self._read(how, match)
            for text in texts
            for how, phrase in self._phrases
            for match in _compiled(phrase, how).finditer(text)
        )
        return tuple(dict.fromkeys(fix for fix in found if fix is not None))

    def _read(self, how: How, found: re.Match[str]) -> ParameterFix | None:
        named = found.groupdict()
        match how:
            case "fit":
                left = int(named["context"].replace(",", "")) - int(named["input"].replace(",", ""))
                return ParameterFix("fit", _LENGTHS[0], str(left)) if left > 0 else None
            case "role":
                other = self._roles.get(named["role"].lower())
                return ParameterFix("role", named["role"].lower(), other) if other else None
            case "rename":
                pair = (self._name(named["name"]), self._name(named["other"]))
                return ParameterFix("rename", *pair) if set(pair) == set(_LENGTHS) else None
            case "clamp":
                value = _range(named)
                return ParameterFix("clamp", self._name(named["name"]), value) if value else None
        return ParameterFix(how, self._name(named["name"]))

    def _name(self, written: str) -> str:
        """The parameter that a path such as `body.max_tokens` or `stream_options.include_usage` is about."""
        path = [part for part in re.split(r"[.\[\]]+", written) if part and not part.isdigit()]
        if path and path[0] in ("body", "parameters", "parameter", "generationConfig", "generation_config"):
            path = path[1:]
        name = path[-1] if path and path[0] == "messages" else "".join(path[:1])
        return self._aliases.get(_plain(name), name)


def _range(named: Mapping[str, str | None]) -> str:
    low, high = named.get("min") or "", named.get("max") or ""
    if high and not low and float(high) <= 0:
        return ""
    opened, closed = named.get("open"), named.get("close")
    out_low = low and opened is not None and opened != "["
    out_high = high and closed is not None and closed != "]"
    return f"{'(' if out_low else ''}{low}..{high}{')' if out_high else ''}"


# Holds fields of a stored request that are ours and some upstreams', too: sent where an upstream's profile passes them.
SHARED = "penstock_shared"


def pass_shared(request: Mapping[str, Any], passes: Collection[str]) -> dict[str, Any]:
    """The request with those of its shared fields that an upstream knows; its own fields come first."""
    plain = {name: value for name, value in request.items() if name != SHARED}
    shared = request.get(SHARED)
    known = shared.items() if isinstance(shared, Mapping) else ()
    return {**{name: value for name, value in known if name in passes}, **plain}


def strip_default_parameters(body: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The body without parameters that equal their default. 1 equals 1.0, but not true."""
    return {
        name: value for name, value in body.items() if not (name in defaults and _same(value, defaults[name]))
    }


def _same(value: Any, default: Any) -> bool:
    return bool(value == default) and isinstance(value, bool) == isinstance(default, bool)
