"""Judge the conditions of a model's tiers for a task, once, while its prompt and metadata are at hand."""

from __future__ import annotations

from collections.abc import Sequence

from app.pacing.domain.tokens import answer_limit, prompt_tokens
from app.settings import Settings
from app.settings.conditions import spans_of
from app.submission.domain.request import TaskRequest
from app.tasks.domain.eligibility import TierFacts, condition_id, write_facts
from app.tasks.domain.task import PriorityStep


def conditions_of(settings: Settings) -> dict[str, tuple[str, ...]]:
    """The conditions of each model's tiers; models without any are left out."""
    found = {m.name: tuple(dict.fromkeys(t.when for t in m.all_tiers if t.when)) for m in settings.models}
    return {model: texts for model, texts in found.items() if texts}


def judge_conditions(
    texts: Sequence[str], request: TaskRequest, *, client: str, region: str, step: int, since: float
) -> str | None:
    """The facts that travel with the task; None where no tier of its model has a condition."""
    if not texts:
        return None
    known = {
        "prompt_tokens": prompt_tokens(request.messages, request.parameters),
        "max_tokens": answer_limit(request.parameters),
        "metadata": request.metadata,
        "client": client,
        "region": region,
        "priority": PriorityStep(step).name.lower(),
    }
    judged = {condition_id(text): spans_of(text, known) for text in texts}
    return write_facts(TierFacts(since, {name: spans for name, spans in judged.items() if spans})) or None
