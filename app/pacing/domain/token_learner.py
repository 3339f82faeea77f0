"""How many tokens a model's calls really take: what the rule of thumb is corrected by.

Reserved is the prompt's estimate times the measured ratio, plus what it has been off by of late, plus the answer's
limit. Where a request sets none: the 95th percentile of the model's last 200 answers of that kind (nearest rank).
Means are exponentially weighted, a twentieth of the weight on the newest call; the ratio is one of means of tokens, so
that long prompts, which are what fills a quota, weigh as much as they take.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from app.pacing.domain.backlog import WaitingList
from app.pacing.domain.tokens import DEFAULT_ANSWER

KEPT_AS = "tokens:"  # before a model's name, among what is kept by quota
FEW = 5  # calls below which nothing is believed
_WEIGHT = 0.05
_KEPT = 200  # answers
_QUANTILE = 0.95
_MOST = 2**31 - 1


@dataclass(slots=True)
class TokenLearner:
    """What one model's calls taught. Means are in tokens a call."""

    calls: int = 0
    estimated: float = 0.0
    real: float = 0.0
    off: float = 0.0  # mean distance of a prompt from its corrected estimate
    answers: deque[int] = field(default_factory=lambda: deque(maxlen=_KEPT))

    @property
    def ratio(self) -> float:
        """Real tokens for one by the rule of thumb."""
        return self.real / self.estimated if self.calls >= FEW and self.estimated > 0 else 1.0

    def saw(self, estimated: int, real: int, answer: int, asked: int) -> None:
        """A call came back: its prompt as estimated and as counted, its answer, and the limit asked for (0: none)."""
        if real > 0 and estimated > 0:
            self.calls += 1
            weight = max(_WEIGHT, 1 / self.calls)
            self.estimated += weight * (estimated - self.estimated)
            self.real += weight * (real - self.real)
            distance = abs(real - self.real / self.estimated * estimated)
            self.off += weight * (distance - self.off)
        if asked == 0 and answer > 0:
            self.answers.append(answer)

    def reserve(self, estimate: int, asked: int) -> int:
        """What a call of this estimate (`tokens.estimate`) is to reserve; at least 1."""
        prompt = estimate - (asked or DEFAULT_ANSWER)
        if self.calls >= FEW:
            corrected = prompt * self.ratio
            prompt = math.ceil(corrected + min(self.off, corrected))
        return min(_MOST, max(1, prompt + (asked or self.answer())))

    def answer(self) -> int:
        """Tokens reserved for an answer of which the request says nothing."""
        if len(self.answers) < FEW:
            return DEFAULT_ANSWER
        return sorted(self.answers)[math.ceil(_QUANTILE * len(self.answers)) - 1]


def to_facts(estimator: TokenLearner) -> dict[str, Any]:
    """As plain values, to be kept."""
    return {
        "calls": estimator.calls,
        "estimated": round(estimator.estimated, 3),
        "real": round(estimator.real, 3),
        "off": round(estimator.off, 3),
        "answers": list(estimator.answers),
    }


def from_facts(facts: Mapping[str, Any]) -> TokenLearner:
    """Read what was kept; what is missing starts anew."""
    estimator = TokenLearner(
        int(facts.get("calls", 0)),
        float(facts.get("estimated", 0.0)),
        float(facts.get("real", 0.0)),
        float(facts.get("off", 0.0)),
    )
    estimator.answers.extend(int(one) for one in facts.get("answers", ()))
    return estimator


@dataclass(frozen=True, slots=True)
class TokensUsed:
    """What a call used, beside what was known of it. `model` is the client's word for it."""

    model: str
    estimate: int  # by tokens.estimate: prompt and answer
    asked: int  # the answer's limit; 0: none
    prompt: int
    answer: int


@dataclass(slots=True)
class TokenBook:
    """What all models taught."""

    models: dict[str, TokenLearner] = field(default_factory=dict)

    def saw(self, used: TokensUsed) -> None:
        """A call came back."""
        estimated = used.estimate - (used.asked or DEFAULT_ANSWER)
        estimator = self.models.setdefault(used.model, TokenLearner())
        estimator.saw(estimated, used.prompt, used.answer, used.asked)

    def reserved(self, waiting: Iterable[WaitingList]) -> tuple[WaitingList, ...]:
        """Lists with the tokens that each head is to reserve."""
        return tuple(
            one if (learned := self.models.get(one.model)) is None else _reserved(one, learned)
            for one in waiting
        )

    def facts(self) -> dict[str, dict[str, Any]]:
        """As plain values, under names that no quota has."""
        return {KEPT_AS + model: to_facts(estimator) for model, estimator in list(self.models.items())}

    def recall(self, facts: Mapping[str, Mapping[str, Any]]) -> None:
        """Read what was kept, among other things."""
        for name, kept in facts.items():
            if name.startswith(KEPT_AS):
                self.models[name[len(KEPT_AS) :]] = from_facts(kept)


def _reserved(one: WaitingList, learned: TokenLearner) -> WaitingList:
    heads = (
        replace(head, estimate=float(learned.reserve(int(head.estimate), head.asked))) for head in one.heads
    )
    return replace(one, heads=tuple(heads))
