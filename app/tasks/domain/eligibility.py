"""Which tiers a task may use.

A tier's condition is evaluated at submission, when prompt and metadata are at hand. The result is when it holds, as
spans of waiting time. They travel with the task as its facts:

    1732160000;a1b2c3:0-;d4e5f6:60-,300-400

is a task that may run since that instant (Unix seconds) and meets condition a1b2c3 at once, d4e5f6 after a minute's
wait, but not between the spans. Conditions that never hold are left out. Conditions are named by the digest of their
text, so that a changed configuration cannot confuse them.

When a call ended in a way that other tiers are configured for, a note says so (`tier:context_length`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import quote

from app.tasks.domain.attempt import Outcome

NOTE = "tier:"
# What a tier can be configured for, and the outcome that sends a task there.
FALLS = {"context_length": Outcome.CONTEXT_TOO_LONG, "content_filter": Outcome.CONTENT_REFUSED}

_UPSTREAM = "upstream:"

Span = tuple[float, float]  # seconds of waiting: from, up to (infinite: without end)
FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class TierRule:
    """When a tier may be used."""

    condition: str = ""  # id of its condition; '' for none
    serves: frozenset[str] = frozenset()  # only tasks whose call ended in one of these keys of FALLS
    backup: bool = False  # only while the tiers before are down

    @property
    def is_plain(self) -> bool:
        """Whether every task may use it whenever it serves at all."""
        return not self.condition and not self.serves


PLAIN = TierRule()


@dataclass(frozen=True, slots=True)
class TierFacts:
    """What was evaluated at submission."""

    since: float = 0.0  # Unix seconds: when the task could first run
    conditions: Mapping[str, tuple[Span, ...]] = field(default_factory=dict)


def upstream_note(upstream: str) -> str:
    """The note that an upstream failed a task, which other upstreams may serve."""
    return _UPSTREAM + quote(upstream, safe="")


def condition_id(text: str) -> str:
    """The name of a condition."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def write_facts(facts: TierFacts) -> str:
    """Serialize facts; '' when there are none."""
    if not facts.conditions:
        return ""
    parts = [f"{name}:{','.join(map(_span, spans))}" for name, spans in facts.conditions.items() if spans]
    return ";".join([f"{facts.since:.0f}", *parts])


def _span(span: Span) -> str:
    return f"{span[0]:g}-" if span[1] == FOREVER else f"{span[0]:g}-{span[1]:g}"


@lru_cache(8192)
def read_facts(text: str) -> TierFacts:
    """Parse facts; unreadable text counts as none."""
    try:
        since, *parts = text.split(";")
        named = (part.partition(":") for part in parts)
        return TierFacts(
            float(since), {name: tuple(map(_read_span, spans.split(","))) for name, _, spans in named}
        )
    except ValueError:
        return TierFacts()


def _read_span(text: str) -> Span:
    begin, _, end = text.partition("-")
    return float(begin), float(end) if end else FOREVER


def may_use(rule: TierRule, facts: str, notes: Iterable[str], now: float) -> bool:
    """Whether a task with these facts and notes may use a tier at `now`, Unix seconds."""
    fell = {note[len(NOTE) :] for note in notes if note.startswith(NOTE)}
    if fell or rule.serves:
        return bool(fell) and fell <= rule.serves and _holds(rule, facts, now)
    return _holds(rule, facts, now)


def _holds(rule: TierRule, facts: str, now: float) -> bool:
    if not rule.condition:
        return True
    read = read_facts(facts)
    waited = max(0.0, now - read.since)
    return any(begin <= waited < end for begin, end in read.conditions.get(rule.condition, ()))
