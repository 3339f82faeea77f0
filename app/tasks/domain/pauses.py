"""What operators have paused: everything, a model, a client or a key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Kind = Literal["everything", "model", "client", "key"]
KINDS: tuple[Kind, ...] = get_args(Kind)
EVERYTHING: Literal["everything"] = "everything"
PAUSED = "paused by an operator: "


def subject_of(kind: Kind, name: str = "") -> str:
    """The name of a pause: `everything`, `model:deepseek-flash`, `client:alice`, `key:main`. Raises ValueError."""
    if kind not in KINDS or bool(name) == (kind == EVERYTHING):
        raise ValueError(f"a pause is of everything or of one of {', '.join(KINDS[1:])}")
    return f"{kind}:{name}" if name else kind


def subject_in_words(subject: str) -> str:
    """`model:deepseek-flash` as "model deepseek-flash"."""
    return subject.replace(":", " ", 1)


@dataclass(frozen=True, slots=True)
class Suspension:
    """Why a key, or all of them, may not be used."""

    words: str
    by_operator: bool = True


@dataclass(frozen=True, slots=True)
class Pauses:
    """All pauses in force, by subject. Running calls continue."""

    subjects: frozenset[str] = frozenset()

    @classmethod
    def of(cls, subjects: Iterable[str]) -> Pauses:
        """Make pauses from their names."""
        return cls(frozenset(subjects))

    def holds(self, model: str, client: str) -> Suspension | None:
        """Why a client's backlog for a model is paused; None: it is not."""
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
        """All pauses, as text for people."""
        return tuple(sorted(map(subject_in_words, self.subjects)))


@dataclass(frozen=True, slots=True)
class Suspensions:
    """What planning must skip: operators' pauses, and keys that may not be used."""

    pauses: Pauses = Pauses()
    keys: Mapping[str, Suspension] = field(default_factory=dict)  # paused or disabled, by name
    refusing: Mapping[str, Mapping[str, Suspension]] = field(
        default_factory=dict
    )  # by client: quotas that refuse it, and why
    resting: Mapping[str, tuple[float, str]] = field(
        default_factory=dict
    )  # quotas that refuse every client: for how many seconds, and why
    probed: Mapping[str, str] = field(default_factory=dict)  # quotas that take one call at a time, and why
