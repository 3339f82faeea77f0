"""Tiers of a model, [[model.tier]], and the conditions on which they serve a task."""

from __future__ import annotations

import ast
from bisect import bisect_right
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, model_validator
from simpleeval import DEFAULT_OPERATORS, EvalWithCompoundTypes, InvalidExpression

from app.billing.domain.calendar import Calendar
from app.settings.config_errors import config_error
from app.settings.values import FromList, Section
from app.tasks.domain.eligibility import FOREVER, Span

WAIT = "queue_wait"
DOWN = "down"
HOUR, HOUR_IN, PEAK = "hour", "hour_in", "peak"
AHEAD = 7 * 86400  # seconds of waiting for which hours and calendars are worked out; the last state stays
_STEP = 900  # seconds: the hours of every zone begin at one of these
# What an expression may speak of, with a value of its kind.
NAMES: Mapping[str, Any] = {
    "prompt_tokens": 0,  # of the prompt, estimated
    "max_tokens": 0,  # asked for; 0 where the request leaves it open
    "metadata": {},  # of the task: metadata.NAME, '' where there is none
    "client": "",
    "region": "",  # the client's
    "priority": "",  # high, normal, low
    HOUR: 0,  # of the day, in UTC: 0 to 23
    WAIT: 0.0,  # seconds since the task could first run
    DOWN: True,  # the tiers before it cannot serve
}
FUNCTIONS = {
    "lower": lambda text: str(text).lower(),
    "starts_with": lambda text, with_: str(text).startswith(with_),
    HOUR_IN: lambda _zone: 0,  # the hour of the day in a time zone
    PEAK: lambda _calendar: False,  # whether a calendar has peak hours
}
LONGEST = 500  # characters
_OPERATORS = {
    kind: act for kind, act in DEFAULT_OPERATORS.items() if kind not in (ast.Pow, ast.LShift, ast.RShift)
}


class _Metadata(dict[str, Any]):
    """A name that is not there is empty text."""

    def __missing__(self, key: str) -> str:
        return ""


# What clocks and calendars show: the hour by zone, and the calendars in peak hours.
_Shown = tuple[tuple[tuple[str, int], ...], frozenset[str]]


def spans_of(
    text: str, facts: Mapping[str, Any], since: float = 0.0, calendars: Mapping[str, Calendar] | None = None
) -> tuple[Span, ...]:
    """The spans of waiting time since `since` (Unix seconds) in which the condition holds for these facts.

    There are none when it cannot be judged. A condition changes only where the waiting time passes a number that it is
    compared with, where an hour begins, and where peak hours begin or end.
    """
    tree = ast.parse(text, mode="eval")
    waits = sorted({number for number in _compared(tree) if number > 0})
    shown = _shown_while_waiting(tree, since, calendars or {})
    edges = sorted({0.0, *waits, *(begin for begin, _ in shown)})
    judged: dict[tuple[int, _Shown], bool] = {}
    spans: list[Span] = []
    for begin, end in zip(edges, [*edges[1:], FOREVER], strict=True):
        inside = begin + 1.0 if end == FOREVER else (begin + end) / 2
        clock = shown[bisect_right(shown, begin, key=lambda one: one[0]) - 1][1]
        state = (bisect_right(waits, begin), clock)
        if state not in judged:
            judged[state] = _holds(text, {**facts, WAIT: inside}, clock)
        if not judged[state]:
            continue
        if spans and spans[-1][1] == begin:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((begin, end))
    return tuple(spans)


def calendars_in(text: str) -> list[str]:
    """The calendars that a condition asks for."""
    return _asked(ast.parse(text, mode="eval"), PEAK)


def _shown_while_waiting(
    tree: ast.AST, since: float, calendars: Mapping[str, Calendar]
) -> list[tuple[float, _Shown]]:
    """What clocks and calendars show from which seconds of waiting on, in order; the first from 0."""
    zones = {*_asked(tree, HOUR_IN), *(["UTC"] if _speaks_of(tree, HOUR) else [])}
    named = {name: calendars[name] for name in _asked(tree, PEAK) if name in calendars}
    if not zones and not named:
        return [(0.0, ((), frozenset()))]
    states = _shown_from(int(since // _STEP), tuple(sorted(zones)), tuple(sorted(named.items())))
    return [(max(0.0, at - since), state) for at, state in _from_now(states, since)]


def _from_now(states: tuple[tuple[float, _Shown], ...], since: float) -> tuple[tuple[float, _Shown], ...]:
    return states[max(0, bisect_right(states, since, key=lambda one: one[0]) - 1) :]


@lru_cache(256)
def _shown_from(
    step: int, zones: tuple[str, ...], calendars: tuple[tuple[str, Calendar], ...]
) -> tuple[tuple[float, _Shown], ...]:
    """What is shown from which instant on, from a quarter of an hour on; tasks of the same quarter share it."""
    first, last = step * _STEP, step * _STEP + AHEAD
    instants: set[float] = set(range(first, last, _STEP)) if zones else {first}
    for _, calendar in calendars:
        instants.update(at for at in calendar.changes(first, last) if at > first)
    found: list[tuple[float, _Shown]] = []
    for at in sorted(instants):
        hours = tuple((zone, datetime.fromtimestamp(at, ZoneInfo(zone)).hour) for zone in zones)
        state = (hours, frozenset(name for name, calendar in calendars if calendar.is_peak(at)))
        if not found or found[-1][1] != state:
            found.append((at, state))
    return tuple(found)


def checked_condition(text: str) -> str:
    """`text` unchanged when it is a condition."""
    if len(text) > LONGEST:
        raise config_error(f"is longer than {LONGEST} characters", "shorten it, or use several tiers")
    try:
        tree = ast.parse(text, mode="eval")
        _check(tree)
        _evaluate(text, NAMES)
    except (
        SyntaxError,
        InvalidExpression,
        TypeError,
        ValueError,
        LookupError,
        OSError,
        ArithmeticError,
    ) as error:
        said = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        words = [*NAMES, f"{HOUR_IN}('ZONE')", f"{PEAK}('CALENDAR')"]
        hint = f'it may speak of {", ".join(words)}; for instance "prompt_tokens < 500"'
        raise config_error(f"is no condition ({said})", hint) from None
    return text


def is_backup(text: str | None) -> bool:
    """Whether a condition holds only while the tiers before are down."""
    return text is not None and any(map(_is_down, _parts(ast.parse(text, mode="eval").body)))


def _parts(tree: ast.expr) -> list[ast.expr]:
    """What must all hold."""
    return tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]


def _is_down(tree: ast.AST) -> bool:
    return isinstance(tree, ast.Name) and tree.id == DOWN


def _asked(tree: ast.AST, function: str) -> list[str]:
    """The texts that a function is called with. Raises ValueError for anything else."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function:
            match node.args:
                case [ast.Constant(value=str(name))]:
                    found.append(name)
                case _:
                    raise ValueError(f"{function} takes one name in quotes")
    return found


def _speaks_of(tree: ast.AST, name: str) -> bool:
    return any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(tree))


def _check(tree: ast.Expression) -> None:
    """The waiting time may only be compared with numbers: its edges must be known beforehand. `down` is judged when a
    task is sent, so it may only be added to the rest.
    """
    if sum(map(_is_down, ast.walk(tree))) != sum(map(_is_down, _parts(tree.body))):
        raise ValueError(
            f'{DOWN} may only stand alone or be joined by "and", as in "{DOWN} and prompt_tokens < 500"'
        )
    waits = sum(isinstance(node, ast.Name) and node.id == WAIT for node in ast.walk(tree))
    if waits != len(_compared(tree)):
        raise ValueError(f'{WAIT} may only be compared with a number, as in "{WAIT} > 60"')
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in FUNCTIONS and node not in called:
            raise ValueError(f"{node.id} needs its value in brackets")
    _asked(tree, PEAK)
    for zone in _asked(tree, HOUR_IN):
        ZoneInfo(zone)


def _compared(tree: ast.AST) -> list[float]:
    """The numbers that the waiting time is compared with."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and len(node.comparators) == 1:
            sides = (node.left, node.comparators[0])
            names = [side for side in sides if isinstance(side, ast.Name) and side.id == WAIT]
            numbers = [
                s.value for s in sides if isinstance(s, ast.Constant) and isinstance(s.value, int | float)
            ]
            if len(names) == len(numbers) == 1:
                found.append(float(numbers[0]))
    return found


def _holds(text: str, facts: Mapping[str, Any], shown: _Shown) -> bool:
    hours, peaks = dict(shown[0]), shown[1]
    clocks: dict[str, Callable[[str], Any]] = {HOUR_IN: hours.get, PEAK: peaks.__contains__}
    try:
        return bool(_evaluate(text, {HOUR: hours.get("UTC", 0), **facts}, clocks))
    except (InvalidExpression, TypeError, ValueError, KeyError, ArithmeticError):
        return False  # of another kind than the condition expects, such as text where it compares numbers


def _evaluate(
    text: str, facts: Mapping[str, Any], clocks: Mapping[str, Callable[[str], Any]] | None = None
) -> Any:
    names = {**NAMES, **facts, "true": True, "false": False}
    names["metadata"] = _Metadata(names["metadata"] or {})
    functions = {**FUNCTIONS, **(clocks or {})}
    return EvalWithCompoundTypes(operators=_OPERATORS, functions=functions, names=names).eval(text)


Condition = Annotated[str, Field(min_length=1), AfterValidator(checked_condition)]
Fall = Literal["context_length", "content_filter"]


class TierSettings(Section):
    """One tier of a model."""

    # Keys of equal rank, each "key" or "key:the upstream's name of the model".
    keys: Annotated[tuple[str, ...], FromList, Field(min_length=1)]
    # Only tasks for which this holds, such as "prompt_tokens < 500", "queue_wait > 60", "not peak('deepseek')" or
    # "hour_in('Asia/Shanghai') in [10, 11]"; left out: all. "down": only while every tier before is down.
    when: Condition | None = None
    # Only tasks whose call at another tier came to one of these: "context_length", "content_filter".
    serves: Annotated[tuple[Fall, ...], FromList] = Field(default=(), alias="for")


class DegradedSettings(Section):
    """model.degraded: what stands behind the last tier."""

    # What is answered, marked as degraded, without any upstream call; left out: only stale answers are given.
    text: Annotated[str, Field(min_length=1, max_length=4000)] | None = None
    # Seconds beyond its lifetime for which a cached answer to the same request is given instead of the text; 0: none.
    stale_if_error: Annotated[float, Field(ge=0, le=30 * 86400)] = 0.0
    # Seconds that a task must have waited for its tiers before. While every tier is known to be down (open circuit
    # breakers, disabled keys), the answer comes at once.
    after: Annotated[float, Field(ge=1, le=30 * 86400)] = 30.0
    # Whether tasks get it that do not say allow_degraded; those that say false never do.
    always: bool = False

    @model_validator(mode="after")
    def _has_an_answer(self) -> Self:
        if self.text is None and not self.stale_if_error:
            raise config_error("has no answer", 'write text = "...", or stale_if_error = SECONDS')
        return self


class HasTiers(Section):
    """Tiers in the short form, as lists of keys, or in the long one."""

    # The name in a request.
    name: str
    # Tiers in the order of preference, the next for when the one before cannot serve at all. Each lists keys
    # of equal rank as "key" or "key:the upstream's name of the model".
    tiers: (
        Annotated[tuple[Annotated[tuple[str, ...], Field(min_length=1)], ...], FromList, Field(min_length=1)]
        | None
    ) = None
    # The same in the long form, for tiers with conditions: [[model.tier]].
    tier: Annotated[tuple[TierSettings, ...], FromList] = ()
    # Behind the last tier: { text = "the system is busy, please try later", after = 30 } answers tasks that allow it
    # (allow_degraded, or always = true here) once they have waited so many seconds, or at once while all tiers are
    # known to be down. Left out: they wait on.
    degraded: DegradedSettings | None = None
    # How calls are spread over the keys of a tier: in turn by weight, to the key with fewest calls in flight
    # for its weight, or to the one that answered fastest lately.
    balance: Literal["weighted", "least_in_flight", "fastest"] = "weighted"

    @model_validator(mode="after")
    def _has_tiers_in_one_form(self) -> Self:
        if self.tiers is None and not self.tier:
            raise config_error('lacks "tiers"', 'add a line "tiers = ...", or a [[model.tier]] for each')
        if self.tiers is not None and self.tier:
            raise config_error('has both "tiers" and [[model.tier]]', "keep one of them")
        if self.tier and all(tier.serves for tier in self.tier):
            raise config_error(
                'has no tier for ordinary tasks, only such with "for"', 'add a tier without "for"'
            )
        return self

    @property
    def all_tiers(self) -> tuple[TierSettings, ...]:
        """Every tier in the long form."""
        return self.tier or tuple(TierSettings(keys=keys) for keys in self.tiers or ())
