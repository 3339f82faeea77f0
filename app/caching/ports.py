"""Where answers are kept to be given again, as those who use them see it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from app.caching.domain.answer import CachedAnswer as KeptAnswer


class AnswerCache(Protocol):
    """Answers kept to be given again. Whatever keeps it from answering counts as nothing kept: it never raises."""

    def look(self, keys: Collection[str]) -> Mapping[str, KeptAnswer]:
        """The answers that are kept, by key."""

    def keep(self, key: str, answer: KeptAnswer, seconds: float) -> None:
        """Keep an answer for so long, in the place of an older one."""

    def stamp(self) -> str | None:
        """Changes whenever an answer takes an older one's place, in whatever process. None: it cannot be told now."""

    def close(self) -> None:
        """Let go of what it holds open."""


class NoAnswers:
    """Keeps nothing."""

    def look(self, keys: Collection[str]) -> Mapping[str, KeptAnswer]:  # noqa: ARG002
        """Nothing."""
        return {}

    def keep(self, key: str, answer: KeptAnswer, seconds: float) -> None:
        """Keeps nothing."""

    def stamp(self) -> str | None:
        """Nothing is ever replaced."""
        return ""

    def close(self) -> None:
        """Holds nothing."""
