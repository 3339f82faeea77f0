"""What an operator has paused: everything, a model, a client, a key. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Kind = Literal["everything", "model", "client", "key"]
KINDS: tuple[Kind, ...] = get_args(Kind)
EVERYTHING: Literal["everything"] = "everything"
PAUSED = "paused by an operator: "


def subject_of(kind: Kind, name: str = "") -> str:
    """How a pause is named: `everything`, `model:deepseek-flash`, `client:alice`, `key:main`. Raises ValueError."""
    if kind not in KINDS or bool(name) == (kind == EVERYTHING):
        raise ValueError(f"a pause is of everything or of one of {', '.join(KINDS[1:])}")
    return f"{kind}:{name}" if name else kind


def subject_in_words(subject: str) -> str:
    """`model:deepseek-flash` is the model deepseek-flash."""
    return subject.replace(":", " ", 1)


@dataclass(frozen=True, slots=True)
class Suspension:
    """Why a key, or all of them, may not be used."""

    words: str
    by_operator: bool = True


@dataclass(frozen=True, slots=True)
class Pauses:
    """All that are in force, by subject. Running calls go on."""

    subjects: frozenset[str] = frozenset()

    @classmethod
    def of(cls, subjects: Iterable[str]) -> Pauses:
        """Out of names."""
        return cls(frozenset(subjects))

    def holds(self, model: str, client: str) -> Suspension | None:
        """Whether a client's backlog for a model is not to be looked at, and why."""
        if not self.subjects:
            return None
        for subject in (EVERYTHING, f"model:{model}", f"client:{client}"):
            if subject in self.subjects:
                return Suspension(PAUSED + subject_in_words(subject))
        return None

    @property
    def keys(self) -> Mapping[str, Suspension]:
        """Paused keys by name."""
        return {
            subject.removeprefix("key:"): Suspension(PAUSED + subject_in_words(subject))
            for subject in self.subjects
            if subject.startswith("key:")
        }

    @property
    def in_words(self) -> tuple[str, ...]:
        """All of them, for people."""
        return tuple(sorted(map(subject_in_words, self.subjects)))


@dataclass(frozen=True, slots=True)
class Suspensions:
    """What planning leaves alone: an operator's pauses, and keys that are not to be used."""

    pauses: Pauses = Pauses()
    keys: Mapping[str, Suspension] = field(default_factory=dict)  # paused or disabled, by name
    refusing: Mapping[str, Mapping[str, Suspension]] = field(
        default_factory=dict
    )  # by client: quotas that refuse it
    resting: Mapping[str, tuple[float, str]] = field(
        default_factory=dict
    )  # the same for all: seconds, and why
    probed: Mapping[str, str] = field(default_factory=dict)  # quotas that take one call at a time, and why
