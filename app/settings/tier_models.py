"""Tiers of a model, [[model.tier]], and the conditions on which they serve a task."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from simpleeval import DEFAULT_OPERATORS, EvalWithCompoundTypes, InvalidExpression

from app.settings.config_errors import config_error
from app.settings.values import FromList, Section
from app.tasks.domain.eligibility import FOREVER, Span

WAIT = "queue_wait"
DOWN = "down"
# What an expression may speak of, with a value of its kind.
NAMES: Mapping[str, Any] = {
    "prompt_tokens": 0,  # of the prompt, estimated
    "max_tokens": 0,  # asked for; 0 where the request leaves it open
    "metadata": {},  # of the task: metadata.NAME, '' where there is none
    "client": "",
    "region": "",  # the client's
    "priority": "",  # high, normal, low
    WAIT: 0.0,  # seconds since the task could first run
    DOWN: True,  # the tiers before it cannot serve
}
FUNCTIONS = {
    "lower": lambda text: str(text).lower(),
    "starts_with": lambda text, with_: str(text).startswith(with_),
}
LONGEST = 500  # characters
_OPERATORS = {
    kind: act for kind, act in DEFAULT_OPERATORS.items() if kind not in (ast.Pow, ast.LShift, ast.RShift)
}


class _Metadata(dict[str, Any]):
    """A name that is not there is empty text."""

    def __missing__(self, key: str) -> str:
        return ""


def spans_of(text: str, facts: Mapping[str, Any]) -> tuple[Span, ...]:
    """The spans of waiting time in which the condition holds for these facts; none when it cannot be judged.

    A condition changes only where the waiting time passes a number that it is compared with.
    """
    edges = [0.0, *sorted({number for number in _compared(ast.parse(text, mode="eval")) if number > 0})]
    spans: list[Span] = []
    for begin, end in zip(edges, [*edges[1:], FOREVER], strict=True):
        inside = begin + 1.0 if end == FOREVER else (begin + end) / 2
        if not _holds(text, {**facts, WAIT: inside}):
            continue
        if spans and spans[-1][1] == begin:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((begin, end))
    return tuple(spans)


def checked_condition(text: str) -> str:
    """`text` unchanged when it is a condition."""
    if len(text) > LONGEST:
        raise config_error(f"is longer than {LONGEST} characters", "shorten it, or use several tiers")
    try:
        tree = ast.parse(text, mode="eval")
        _check(tree)
        _evaluate(text, NAMES)
    except (SyntaxError, InvalidExpression, TypeError, ValueError, KeyError, ArithmeticError) as error:
        said = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        hint = f'it may speak of {", ".join(NAMES)}; for instance "prompt_tokens < 500"'
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


def _holds(text: str, facts: Mapping[str, Any]) -> bool:
    try:
        return bool(_evaluate(text, facts))
    except (InvalidExpression, TypeError, ValueError, KeyError, ArithmeticError):
        return False  # of another kind than the condition expects, such as text where it compares numbers


def _evaluate(text: str, facts: Mapping[str, Any]) -> Any:
    names = {**NAMES, **facts, "true": True, "false": False}
    names["metadata"] = _Metadata(names["metadata"] or {})
    return EvalWithCompoundTypes(operators=_OPERATORS, functions=FUNCTIONS, names=names).eval(text)


Condition = Annotated[str, Field(min_length=1), AfterValidator(checked_condition)]
Fall = Literal["context_length", "content_filter"]


class TierSettings(Section):
    """One tier of a model."""

    # Keys of equal rank, each "key" or "key:the upstream's name of the model".
    keys: Annotated[tuple[str, ...], FromList, Field(min_length=1)]
    # Only tasks for which this holds, such as "prompt_tokens < 500" or "queue_wait > 60"; left out: all. "down": only
    # while every tier before is down.
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
